/** Builds the page into the Python package; see "build" and "dev" in package.json. */

import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { copyFile, mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { extname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

import { defaultClientConditions, defineConfig, type Plugin } from "vite";

const ROOT = fileURLToPath(new URL(".", import.meta.url));
const PAGE = join(ROOT, "../src/mobile_sam/serve/page");
const WEIGHTS = join(ROOT, "../src/mobile_sam/weights");
const ORT = join(ROOT, "node_modules/onnxruntime-web/dist");

const MODEL_FILES = ["encoder.onnx", "decoder.onnx", "mobile_sam.safetensors"];

/** What onnxruntime-web asks for: without a GPU, and with WebGPU. */
const ORT_FILES = ["ort-wasm-simd-threaded", "ort-wasm-simd-threaded.asyncify"].flatMap((name) => [
  `${name}.mjs`,
  `${name}.wasm`,
]);

/** Served from elsewhere in development: the first part of the path, and the folder. */
const FOLDERS = { models: WEIGHTS, ort: ORT };

const MEDIA_TYPES: Record<string, string> = { ".mjs": "text/javascript", ".wasm": "application/wasm" };

const HASHED = "assets/[name]-[hash].js";

const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

export default defineConfig(async () => ({
  root: ROOT,
  base: "./",
  define: { __ENGINE_FILES__: JSON.stringify(await engineFiles()) },
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", ...defaultClientConditions] },
  plugins: [developmentFiles(), pageFiles()],
  server: { headers: ISOLATION },
  preview: { headers: ISOLATION },
  optimizeDeps: { exclude: ["onnxruntime-web"] },
  worker: {
    format: "es" as const,
    rolldownOptions: { output: { chunkFileNames: HASHED, entryFileNames: HASHED } },
  },
  build: {
    outDir: PAGE,
    emptyOutDir: true,
    target: "es2022",
    sourcemap: false,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      input: { index: join(ROOT, "index.html"), service_worker: join(ROOT, "src/service_worker.ts") },
      output: {
        entryFileNames: (chunk: { name: string }) =>
          chunk.name === "service_worker" ? "service_worker.js" : HASHED,
      },
    },
  },
}));

/** The files that the engine downloads, with length and hash, by their place below the page. */
async function engineFiles(): Promise<Record<string, FileFacts>> {
  const wasm = ORT_FILES.filter((name) => name.endsWith(".wasm"));
  const places = [
    ...MODEL_FILES.map((name) => [`models/${name}`, join(WEIGHTS, name)] as const),
    ...wasm.map((name) => [`ort/${name}`, join(ORT, name)] as const),
  ];
  const entries = places.map(async ([place, path]) => [place, await facts(path)] as const);
  return Object.fromEntries(await Promise.all(entries));
}

interface FileFacts {
  readonly bytes: number;
  readonly sha256: string;
}

async function facts(path: string): Promise<FileFacts> {
  const content = await readFile(path);
  return { bytes: content.length, sha256: createHash("sha256").update(content).digest("hex") };
}

/** In development: the model and onnxruntime's files, which a build has in folders of the page. */
function developmentFiles(): Plugin {
  return {
    name: "development-files",
    configureServer: (server) => {
      server.middlewares.use((request, response, next) => {
        const [, folder, name, ...rest] = (request.url ?? "").split("?")[0]!.split("/");
        const root = FOLDERS[folder as keyof typeof FOLDERS];
        const path = root && name && !rest.length ? join(root, name) : "";
        if (!path || !existsSync(path)) {
          next();
          return;
        }
        response.setHeader("Content-Type", MEDIA_TYPES[extname(path)] ?? "application/octet-stream");
        response.setHeader("Cross-Origin-Embedder-Policy", "require-corp"); // for the threads' workers
        createReadStream(path).pipe(response);
      });
    },
  };
}

/**
 * After a build: onnxruntime's files with their licence, the list of all files, and its hash for the service
 * worker.
 */
function pageFiles(): Plugin {
  return {
    name: "page-files",
    apply: "build",
    closeBundle: async () => {
      await mkdir(join(PAGE, "ort"), { recursive: true });
      await Promise.all(ORT_FILES.map((name) => copyFile(join(ORT, name), join(PAGE, "ort", name))));
      const library = await readFile(join(ORT, "../package.json"), "utf8");
      const { version } = JSON.parse(library) as { version: string };
      await writeFile(join(PAGE, "ort/LICENSE.txt"), ortNotice(version));
      const files = await listedFiles();
      const list = JSON.stringify({ files }, null, 1) + "\n";
      await writeFile(join(PAGE, "page.json"), list);
      await stampServiceWorker({
        version: createHash("sha256").update(list).digest("hex").slice(0, 16),
        shell: files.filter(({ shell }) => shell).map(({ path }) => path),
        later: files.filter(({ path }) => path.startsWith("examples/")).map(({ path }) => path),
      });
    },
  };
}

/**
 * All files but the service worker, which has the list's hash; those of the shell are kept at the first
 * visit.
 */
async function listedFiles(): Promise<({ path: string; shell: boolean } & FileFacts)[]> {
  const entries = await readdir(PAGE, { recursive: true });
  const paths = entries.map((path) => path.split(sep).join("/")).sort();
  const listed = [];
  for (const path of paths) {
    const isListed = !["page.json", "service_worker.js"].includes(path);
    if (isListed && (await stat(join(PAGE, path))).isFile()) {
      listed.push({ path, shell: isShell(path), ...(await facts(join(PAGE, path))) });
    }
  }
  return listed;
}

function isShell(path: string): boolean {
  return !path.startsWith("examples/") && !path.endsWith(".wasm") && !path.endsWith(".txt");
}

/** What the service worker is told: the list's hash, what it keeps at the first visit, and at first use. */
interface Stamp {
  readonly version: string;
  readonly shell: readonly string[];
  readonly later: readonly string[];
}

async function stampServiceWorker(stamp: Stamp): Promise<void> {
  const path = join(PAGE, "service_worker.js");
  const code = await readFile(path, "utf8");
  const stamped = code.replaceAll("__PAGE__", JSON.stringify(stamp));
  if (stamped === code || /^\s*(import|export)\b/m.test(code)) {
    throw new Error(`${relative(ROOT, path)} must be a script without imports that names __PAGE__`);
  }
  await writeFile(path, stamped);
}

function ortNotice(version: string): string {
  return `The files in this folder, and the scripts in ../assets whose names begin with "ort", are those of
onnxruntime-web ${version} (https://github.com/microsoft/onnxruntime), unchanged but for their packing,
under the MIT License below. The WebAssembly files contain other libraries; their notices are in the file
ThirdPartyNotices.txt of that version: https://github.com/microsoft/onnxruntime/blob/v${version}/ThirdPartyNotices.txt

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
`;
}
