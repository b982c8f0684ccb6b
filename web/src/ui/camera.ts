/** Taking a photo: with the phone's own camera app, else in a dialog. */

import type { App } from "./app.ts";
import { byId, messageOf, onButton } from "./dom.ts";

/** Wire the camera. */
export function setUpCamera(app: App): void {
  const file = byId("camera-file", HTMLInputElement);
  const dialog = byId("camera-dialog", HTMLDialogElement);
  const video = byId("camera-video", HTMLVideoElement);
  const status = byId("camera-status", HTMLElement);
  const take = byId("camera-take", HTMLButtonElement);
  const camera = new Camera(video);

  const open = () => {
    const isPhone = window.matchMedia("(pointer: coarse)").matches;
    if (isPhone || !("mediaDevices" in navigator)) return file.click();
    take.disabled = true;
    status.textContent = "Waiting for the camera …";
    dialog.showModal();
    camera.start().then(
      () => {
        take.disabled = !dialog.open;
        const { choice } = app;
        const isLocal = choice.where !== "server";
        status.textContent = isLocal
          ? "The photo stays on this device."
          : `The photo will be sent to ${new URL(choice.url).host}.`;
      },
      (error: unknown) => (status.textContent = `No camera can be used: ${messageOf(error)}`),
    );
  };
  for (const id of ["camera", "start-camera"]) onButton(id, open);
  take.addEventListener("click", () => {
    void camera.photo().then((photo) => {
      dialog.close();
      return app.open(photo, "photo.png");
    });
  });
  dialog.addEventListener("close", () => camera.stop());
  file.addEventListener("change", () => {
    const photo = file.files?.[0];
    if (photo !== undefined) void app.open(photo, photo.name);
    file.value = "";
  });
}

/** The stream and the element that shows it. */
class Camera {
  #stream: MediaStream | null = null;
  #isWanted = false;
  readonly #video: HTMLVideoElement;

  constructor(video: HTMLVideoElement) {
    this.#video = video;
  }

  async start(): Promise<void> {
    this.#isWanted = true;
    const video = { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1440 } };
    this.#stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    // The dialog may have been closed while the browser asked.
    if (!this.#isWanted) return this.stop();
    this.#video.srcObject = this.#stream;
    await this.#video.play();
  }

  stop(): void {
    this.#isWanted = false;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
  }

  async photo(): Promise<Blob> {
    const canvas = new OffscreenCanvas(this.#video.videoWidth, this.#video.videoHeight);
    canvas.getContext("2d")?.drawImage(this.#video, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
  }
}
