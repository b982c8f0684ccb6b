import assert from "node:assert/strict";
import test from "node:test";

import { checkServerUrl, readAddress } from "../src/ui/settings.ts";

const PAGE = "https://pages.example/sam/index.html";

test("the address chooses the runtime and only offers a server", () => {
  assert.deepEqual(readAddress(`${PAGE}?where=wasm`), { choice: { where: "wasm" }, offeredServer: null });
  assert.deepEqual(readAddress(`${PAGE}?where=other`).choice, { where: "auto" });
  assert.deepEqual(readAddress(`${PAGE}?server`), {
    choice: { where: "auto" },
    offeredServer: "https://pages.example/sam/",
  });
  assert.equal(readAddress(`${PAGE}?server=https://other.example/`).offeredServer, "https://other.example/");
});

test("pictures go to servers by https, or to this device or the page's own server", () => {
  assert.equal(checkServerUrl(" https://sam.example ", PAGE), "https://sam.example/");
  assert.equal(checkServerUrl("http://127.0.0.1:8000/", PAGE), "http://127.0.0.1:8000/");
  assert.equal(
    checkServerUrl("http://box:8000/page/", "http://box:8000/index.html"),
    "http://box:8000/page/",
  );
});

for (const wrong of ["", "sam.example", "http://sam.example/", "ftp://127.0.0.1/", "javascript:alert(1)"]) {
  test(`"${wrong}" is no address of a server`, () => {
    assert.throws(() => checkServerUrl(wrong, PAGE), Error);
  });
}
