/** What all dialogs have in common. */

import { byId, onButton } from "./dom.ts";

/** Wire close buttons, clicks beside the dialogs, and the help. Returns what opens the help. */
export function setUpDialogs(): () => void {
  for (const dialog of document.querySelectorAll("dialog")) {
    for (const button of dialog.querySelectorAll("[data-close]")) {
      button.addEventListener("click", () => dialog.close());
    }
    // The dialog's own padding is 0, so that a click on the dialog itself is one on its backdrop.
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
  }
  const help = byId("help-dialog", HTMLDialogElement);
  const open = () => help.showModal();
  onButton("help", open);
  return open;
}
