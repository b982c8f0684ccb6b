/**
 * The service worker: the page works offline, and is isolated on hosts that set no headers.
 *
 * It keeps the page's own files, which it downloads when it is installed, and pictures of examples when they
 * are first seen. The model and onnxruntime's WebAssembly are kept by the engine (engine/files.ts), in a
 * cache that is left alone here. Everything else, the server's interface above all, goes to the network
 * untouched.
 *
 * This file has no imports, since not every browser takes a service worker that is a module.
 */

/** Written by the build: the hash of page.json, and the files to keep at the first visit and at first use. */
declare const __PAGE__: {
  readonly version: string;
  readonly shell: readonly string[];
  readonly later: readonly string[];
};

const { version, shell, later } = __PAGE__;

const INDEX = "index.html";

/** After so long a visit begins with the page that is kept, though the network may still answer. */
const NETWORK_WAIT_MS = 4000;

const worker = self as unknown as ServiceWorkerGlobalScope;
const base = new URL("./", worker.location.href);
const kept = new Set([...shell, ...later]);

/** Other folders of the same host may hold pages of their own. */
const CACHE_PREFIX = `mobile-sam-page ${base.pathname} `;
const CACHE = `${CACHE_PREFIX}${version}`;

worker.addEventListener("install", (event) => event.waitUntil(install()));
worker.addEventListener("activate", (event) => event.waitUntil(activate()));
worker.addEventListener("fetch", (event) => {
  const path = ownPath(event.request);
  if (event.request.mode === "navigate" && (path === "" || path === INDEX)) {
    event.respondWith(page(event.request));
  } else if (path !== null && kept.has(path)) {
    event.respondWith(file(event.request, path));
  }
});

async function install(): Promise<void> {
  const cache = await caches.open(CACHE);
  await cache.addAll(shell.map((path) => new Request(new URL(path, base), { cache: "no-cache" })));
}

async function activate(): Promise<void> {
  for (const name of await caches.keys()) {
    if (name.startsWith(CACHE_PREFIX) && name !== CACHE) {
      await caches.delete(name);
    }
  }
  await worker.clients.claim();
}

/** The place of a file below the page's folder; null for all that is none of the page's. */
function ownPath({ url, method }: Request): string | null {
  const { origin, pathname } = new URL(url);
  const isOwn = method === "GET" && origin === base.origin && pathname.startsWith(base.pathname);
  return isOwn ? decodeURIComponent(pathname.slice(base.pathname.length)) : null;
}

/** The page itself: from the network, so that a new version is seen at once, else from the cache. */
async function page(request: Request): Promise<Response> {
  const fromNetwork = fetch(request).then(isolated);
  const late = new Promise<null>((resolve) => setTimeout(() => resolve(null), NETWORK_WAIT_MS));
  const answer = await Promise.race([fromNetwork, late]).catch(() => null);
  if (answer) {
    return answer;
  }
  const keptPage = await caches.match(new URL(INDEX, base), { cacheName: CACHE });
  return keptPage ? isolated(keptPage) : fromNetwork;
}

/** A file: from the cache; from the network at first use, and kept. */
async function file(request: Request, path: string): Promise<Response> {
  const cache = await caches.open(CACHE);
  const url = new URL(path, base);
  const keptFile = await cache.match(url);
  if (keptFile) {
    return isolated(keptFile);
  }
  const response = await fetch(request);
  if (response.status === 200 && response.type === "basic") {
    await cache.put(url, response.clone()).catch(() => undefined); // no room: it works all the same
  }
  return isolated(response);
}

/** The response with the headers that give a page and its workers shared memory, and so threads. */
function isolated(response: Response): Response {
  if (response.status === 0 || response.redirected) {
    return response;
  }
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  const hasNoBody = [101, 204, 205, 304].includes(response.status);
  const { status, statusText } = response;
  return new Response(hasNoBody ? null : response.body, { status, statusText, headers });
}
