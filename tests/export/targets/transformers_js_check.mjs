// Runs an exported folder in transformers.js itself; not part of the test suite, which has no Node.js.
//
//   mobile-sam export --to transformers-js -o FOLDER
//   npm install @huggingface/transformers@4          (in a folder outside the repository, with this file copied there)
//   node transformers_js_check.mjs FOLDER PICTURE X Y OUT [fp32|fp16|q8]
//
// prints the three scores of a click at X, Y and writes the three masks to OUT, one byte a pixel:
//
//   masks = np.fromfile("OUT", np.uint8).reshape(3, height, width) > 0
//
// SamPredictor.predict([[X, Y]], [1]) gives what they are to be compared with.

import { writeFileSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { AutoProcessor, RawImage, SamModel, env } from '@huggingface/transformers';

const [folder, picture, x, y, out, dtype = 'fp32'] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(resolve(folder));
const name = basename(resolve(folder));

const model = await SamModel.from_pretrained(name, { dtype });
const processor = await AutoProcessor.from_pretrained(name);
const inputs = await processor(await RawImage.read(picture), { input_points: [[[Number(x), Number(y)]]] });
const { pred_masks, iou_scores } = await model(inputs);
const [masks] = await processor.post_process_masks(pred_masks, inputs.original_sizes, inputs.reshaped_input_sizes);

writeFileSync(out, masks.data);
console.log(JSON.stringify({ dims: masks.dims, scores: Array.from(iou_scores.data), frame: inputs.reshaped_input_sizes }));
