/**
 * The page's start.
 *
 * Ids that tests may rely on:
 *   pictures    #open #file #camera #paste #examples; [data-testid=example-cat|coffee|astronaut|rocket]
 *   canvas      #canvas; #tool-foreground #tool-background #tool-box #tool-pan #tool-pick (aria-pressed)
 *   steps       #undo #redo #clear #new-object; #zoom-in #zoom-out #zoom-fit
 *   candidates  #candidates (fieldset), [data-testid=candidate-1] to -4 (radio buttons)
 *   objects     #objects (list), [data-testid=object-ID] with .object-select, .object-name, two buttons
 *   everything  #everything #cancel #everything-progress #points-per-side #quality; #found (details),
 *               #found-list #found-keep #found-delete #found-visible
 *   export      #export, then #export-current #export-all #export-crop and #export-cutout #export-mask
 *               #export-coco #export-svg #export-copy, #export-outcome
 *   settings    #settings #where-local #where-server #device #server-url #server-token #this-server
 *   page        #status (live region) #message (errors, notices) #message-close #progress #privacy #runtime
 *               #retry #help #theme; html[data-model=loading|ready|encoded|failed], html[data-tool]
 *
 * `window.mobileSam` has `state()`, `currentMask()` and `clientPoint(x, y)`; see ui/hook.ts.
 */

import { registerOffline } from "./engine/offline.ts";
import { Announcer } from "./ui/announce.ts";
import { App } from "./ui/app.ts";
import { setUpCamera } from "./ui/camera.ts";
import { setUpCandidates } from "./ui/candidates_panel.ts";
import { setUpDialogs } from "./ui/dialogs.ts";
import { byId } from "./ui/dom.ts";
import { setUpExport } from "./ui/export_dialog.ts";
import { setUpEverything } from "./ui/found_panel.ts";
import { Gestures } from "./ui/gestures.ts";
import { setUpHook } from "./ui/hook.ts";
import { Hover } from "./ui/hover.ts";
import { Keyboard } from "./ui/keyboard.ts";
import { setUpObjects } from "./ui/objects_panel.ts";
import { readAddress, setUpSettings } from "./ui/settings.ts";
import { setUpSources } from "./ui/sources.ts";
import { Stage } from "./ui/stage.ts";
import { setUpStatus } from "./ui/status.ts";
import { setUpTheme } from "./ui/theme.ts";
import { setUpToolbar } from "./ui/toolbar.ts";

setUpTheme();
const announcer = new Announcer();
const app = new App(announcer);
const stage = new Stage(byId("canvas", HTMLCanvasElement), app);
const { choice, offeredServer } = readAddress(window.location.href);

new Gestures(app, stage, new Hover(app, stage));
const help = setUpDialogs();
setUpSources(app, announcer);
setUpCamera(app);
setUpToolbar(app, stage);
setUpCandidates(app);
setUpObjects(app);
new Keyboard(app, stage, announcer, { everything: setUpEverything(app), help });
setUpExport(app, announcer);
setUpSettings(app, announcer, offeredServer);
setUpStatus(app, announcer);
setUpHook(app, stage);

void registerOffline();
app.start(choice);
