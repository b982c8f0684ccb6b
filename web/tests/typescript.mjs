/** Lets node run TypeScript: `node --import ./tests/typescript.mjs --test tests/*.test.ts`. Node 22 could do without. */

import { readFile } from "node:fs/promises";
import { register } from "node:module";
import { isMainThread } from "node:worker_threads";
import { fileURLToPath } from "node:url";

import { transform } from "rolldown/utils";

if (isMainThread) {
  register(import.meta.url);
}

/** Hand node what is left of a TypeScript file without its types. */
export async function load(url, context, nextLoad) {
  if (!url.endsWith(".ts")) {
    return nextLoad(url, context);
  }
  const path = fileURLToPath(url);
  const { code, errors } = await transform(path, await readFile(path, "utf8"), { lang: "ts" });
  if (errors.length) {
    throw new SyntaxError(`${path}: ${errors[0].message}`);
  }
  return { format: "module", source: code, shortCircuit: true };
}
