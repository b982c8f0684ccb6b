/** Files that the engine needs: downloaded once, checked, and kept in the browser's cache. */

/** What the build says of a file. */
export interface FileFacts {
  readonly bytes: number;
  readonly sha256: string;
}

/** By their place below the page's folder, such as "models/encoder.onnx". */
export type FileTable = Readonly<Record<string, FileFacts>>;

/** Told how many bytes of how many are there. */
export type OnBytes = (done: number, total: number) => void;

/** The service worker leaves this cache alone. */
export const FILE_CACHE = "mobile-sam-files";

/**
 * Get some files, all at once, from the cache or from the page's host.
 *
 * Rejects with an Error that names the file and what is wrong with it; such a file is not kept.
 *
 * @param names keys of the table
 * @param baseUrl the page's folder
 */
export async function getFiles(
  names: readonly string[],
  table: FileTable,
  baseUrl: string,
  onBytes: OnBytes,
): Promise<Uint8Array<ArrayBuffer>[]> {
  const cache = await openCache();
  const total = names.reduce((sum, name) => sum + factsOf(name, table).bytes, 0);
  let done = 0;
  const add = (bytes: number): void => onBytes((done += bytes), total);
  const files = names.map((name) => getFile(new URL(name, baseUrl), factsOf(name, table), cache, add));
  const contents = await Promise.all(files);
  await dropOthers(table, baseUrl, cache);
  return contents;
}

function factsOf(name: string, table: FileTable): FileFacts {
  const facts = table[name];
  if (!facts) {
    throw new Error(`This page was built without ${name}.`);
  }
  return facts;
}

/** The cache, or null where there is none: on http beyond this machine, or where cookies are forbidden. */
async function openCache(): Promise<Cache | null> {
  try {
    return await caches.open(FILE_CACHE);
  } catch {
    return null;
  }
}

/** A file's key in the cache has its hash, so that a new version does not meet an old file. */
function cacheKey(url: URL, { sha256 }: FileFacts): string {
  return `${url.href}?sha256=${sha256}`;
}

async function getFile(
  url: URL,
  facts: FileFacts,
  cache: Cache | null,
  add: (bytes: number) => void,
): Promise<Uint8Array<ArrayBuffer>> {
  const kept = await cache?.match(cacheKey(url, facts));
  if (kept) {
    const content = new Uint8Array(await kept.arrayBuffer());
    if (content.length === facts.bytes) {
      add(content.length);
      return content;
    }
  }
  const content = await download(url, facts, add);
  const response = new Response(content, { headers: { "Content-Length": String(content.length) } });
  await cache?.put(cacheKey(url, facts), response).catch(() => undefined); // no room: it works all the same
  return content;
}

async function download(
  url: URL,
  facts: FileFacts,
  add: (bytes: number) => void,
): Promise<Uint8Array<ArrayBuffer>> {
  const name = url.pathname.split("/").pop();
  const response = await fetch(url).catch((error: unknown) => {
    throw new Error(`${name} could not be downloaded; is the device offline?`, { cause: error });
  });
  if (!response.ok || !response.body) {
    const status = `${response.status} ${response.statusText}`.trim();
    throw new Error(`${name} could not be downloaded: the host answers ${status}.`);
  }
  const content = new Uint8Array(facts.bytes);
  let length = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch((error: unknown) => {
      throw new Error(`The download of ${name} broke off after ${length} bytes; try again.`, {
        cause: error,
      });
    });
    if (done) {
      break;
    }
    if (length + value.length <= content.length) {
      content.set(value, length);
      add(value.length);
    }
    length += value.length;
  }
  if (length !== facts.bytes) {
    throw new Error(`${name} came with ${length} of ${facts.bytes} bytes; reload the page to try again.`);
  }
  if (!(await hasHash(content, facts.sha256))) {
    throw new Error(`${name} is damaged or of another version than this page; reload the page to try again.`);
  }
  return content;
}

/**
 * Without the means to compute a hash, which browsers keep from http beyond this machine, the length must do.
 */
async function hasHash(content: Uint8Array<ArrayBuffer>, sha256: string): Promise<boolean> {
  if (!globalThis.crypto?.subtle) {
    return true;
  }
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("") === sha256;
}

/** Drop older versions of the files of this page. */
async function dropOthers(table: FileTable, baseUrl: string, cache: Cache | null): Promise<void> {
  const keys = new Map<string, string>(); // of the files of this page, by their address
  for (const [name, facts] of Object.entries(table)) {
    const url = new URL(name, baseUrl);
    keys.set(url.href, cacheKey(url, facts));
  }
  for (const { url } of (await cache?.keys()) ?? []) {
    const key = keys.get(url.split("?")[0]!);
    if (key && key !== url) {
      await cache?.delete(url);
    }
  }
}
