/** Requests to the server: its token, its errors, and waiting when it is busy. */

const MAX_RETRIES = 3;
const MAX_WAIT_S = 30;

/** The server said no; the message is what it says about it. */
export class ServerError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** The server's HTTP interface below one address. */
export class HttpApi {
  readonly #baseUrl: URL;
  readonly #token: string | undefined;

  /** Throws an Error if the address is no http or https address. */
  constructor(url: string, token?: string) {
    try {
      this.#baseUrl = new URL(url.endsWith("/") ? url : `${url}/`);
    } catch {
      throw new Error(`"${url}" is no address of a server; it begins with https:// or http://.`);
    }
    if (!/^https?:$/.test(this.#baseUrl.protocol)) {
      throw new Error(`"${url}" is no address of a server; it begins with https:// or http://.`);
    }
    this.#token = token || undefined;
  }

  /** Name and port. */
  get host(): string {
    return this.#baseUrl.host;
  }

  /** Request JSON. */
  async json<T>(path: string, init: RequestInit, signal: AbortSignal): Promise<T> {
    const response = await this.#request(path, init, signal);
    return (await response.json()) as T;
  }

  /** Post JSON, and get JSON. */
  postJson<T>(path: string, request: object, signal: AbortSignal): Promise<T> {
    return this.json(path, jsonInit(request), signal);
  }

  /** Post JSON, and get an answer line by line, each of them JSON. */
  async *lines<T>(path: string, request: object, signal: AbortSignal): AsyncGenerator<T> {
    const response = await this.#request(path, jsonInit(request), signal);
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    try {
      for (;;) {
        const { done, value } = await reader.read();
        rest += value ?? "";
        const lines = rest.split("\n");
        rest = done ? "" : lines.pop()!;
        for (const line of lines.filter((text) => text.trim())) {
          yield JSON.parse(line) as T;
        }
        if (done) {
          return;
        }
      }
    } finally {
      await reader.cancel().catch(() => undefined); // the server stops when nobody listens
    }
  }

  /** Send a request; one that the server has no room for is sent again when it says so. */
  async #request(path: string, init: RequestInit, signal: AbortSignal): Promise<Response> {
    const headers = new Headers(init.headers);
    if (this.#token) {
      headers.set("Authorization", `Bearer ${this.#token}`);
    }
    for (let attempt = 0; ; attempt++) {
      const response = await this.#fetch(path, { ...init, headers, signal });
      if (response.ok) {
        return response;
      }
      const isBusy = response.status === 429 || response.status === 503;
      if (!isBusy || attempt === MAX_RETRIES) {
        throw await serverError(response);
      }
      await waited(retryAfter(response), signal);
    }
  }

  async #fetch(path: string, init: RequestInit): Promise<Response> {
    try {
      return await fetch(new URL(path, this.#baseUrl), { ...init, credentials: "omit", cache: "no-store" });
    } catch (error) {
      if (init.signal?.aborted) {
        throw error;
      }
      throw new Error(`The server ${this.host} cannot be reached, or does not allow this page to use it.`, {
        cause: error,
      });
    }
  }
}

function jsonInit(request: object): RequestInit {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request) };
}

async function serverError(response: Response): Promise<ServerError> {
  let text = `The server answers ${response.status} ${response.statusText}.`;
  try {
    const { title, detail } = (await response.json()) as { title?: string; detail?: string };
    text = [title, detail].filter(Boolean).join(": ") || text;
  } catch {
    // not a problem document: the status must do
  }
  if (response.status === 401) {
    text = `The server wants a token, or does not know this one. ${text}`;
  }
  return new ServerError(response.status, text);
}

/** Seconds to wait; a date in place of a number is understood as well. */
function retryAfter(response: Response): number {
  const header = response.headers.get("Retry-After") ?? "1";
  const seconds = /^\d+(\.\d+)?$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Math.min(Math.max(seconds || 1, 0.1), MAX_WAIT_S);
}

function waited(seconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal.reason instanceof Error ? signal.reason : new DOMException("Cancelled.", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, seconds * 1000);
    signal.addEventListener("abort", stop, { once: true });
  });
}
