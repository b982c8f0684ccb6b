/**
 * Registers the service worker: the page works offline, and gets threads on hosts that set no headers for
 * them.
 */

/** Set when the page was reloaded for its headers, so that it is done once and never in a circle. */
const RELOADED_KEY = "mobile-sam-reloaded";

/** How long the service worker may take to serve this page at a first visit. */
const MAX_WAIT_MS = 8000;

/**
 * Register the service worker where that is possible: on https and on this machine, in a built page.
 *
 * If the host does not isolate the page, which threads need, and the service worker can, the page is reloaded
 * once; call this before the visitor has anything to lose. Never rejects: without the service worker the page
 * works too.
 */
export async function registerOffline(): Promise<void> {
  if (import.meta.env.DEV || !isSecureContext || !("serviceWorker" in navigator)) {
    return;
  }
  try {
    await navigator.serviceWorker.register(new URL("./service_worker.js", document.baseURI));
    if (crossOriginIsolated) {
      sessionStorage.removeItem(RELOADED_KEY);
    } else if ((await isControlled()) && !sessionStorage.getItem(RELOADED_KEY)) {
      sessionStorage.setItem(RELOADED_KEY, "1");
      location.reload();
    }
  } catch (error) {
    console.info("This page will not work offline:", error);
  }
}

/** Wait until the service worker serves this page; false if it takes too long. */
function isControlled(): Promise<boolean> {
  const { serviceWorker } = navigator;
  if (serviceWorker.controller) {
    return Promise.resolve(true);
  }
  return new Promise((resolve) => {
    serviceWorker.addEventListener("controllerchange", () => resolve(true), { once: true });
    setTimeout(() => resolve(serviceWorker.controller !== null), MAX_WAIT_MS);
  });
}
