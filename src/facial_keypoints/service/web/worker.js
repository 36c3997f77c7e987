// Finds faces and their keypoints in the browser, in a worker, so that the page stays responsive.
// The steps are those of inference/detector.py and refine_boxes of inference/refine.py.

import { alike, apply, boxToCrop, hasCropPoints, faceSize, faceCrop, inverse, iou } from './crops.js';
import { metadataOf } from './onnx-about.js';
import { cutCrop, grayOf, shrink, warp } from './pixels.js';

const MIN_FACE_CONFIDENCE = 0.15; // least mean confidence of a detected face's keypoints, in the style where it is lowest
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const DUPLICATE_DISTANCE = 0.35; // mean distance of the keypoints of two faces, in face sizes, below which they are duplicates

let ort = null;
let model = null;
let detector = null;

async function fetchBytes(url, headers) {
  const reply = await fetch(url, { headers });
  if (reply.status === 404) return null;
  if (!reply.ok) throw new Error(`${url} cannot be fetched (${reply.status})`);
  return reply.arrayBuffer();
}

async function start({ runtime, files, headers }) {
  ort = await import(`${runtime}ort.wasm.min.mjs`);
  ort.env.wasm.wasmPaths = runtime;
  ort.env.wasm.numThreads = 1; // more threads need headers that isolate the page from other origins
  ort.env.logLevel = 'error';
  const open = async (url, key) => {
    const bytes = await fetchBytes(url, headers);
    if (!bytes) return null;
    const about = metadataOf(bytes)[key];
    if (!about) throw new Error(`${url} is not a model of this package`);
    return { session: await ort.InferenceSession.create(new Uint8Array(bytes)), about: JSON.parse(about) };
  };
  model = await open(files.model, 'facial_keypoints_spec');
  if (!model) throw new Error(`the service has no ${files.model}`);
  detector = await open(files.detector, 'facial_keypoints_detector');
  const { schema, styles, input_size: [height, width], channels } = model.about;
  if (height !== width || channels !== 1) throw new Error('only models of square grey crops run in the browser');
  return { schema, styles };
}

async function detect(gray, minScore) {
  const { threshold, longest_side: longest, max_enlarge: enlarge, overlap: most, multiple } = detector.about;
  const scale = Math.min(longest / Math.max(gray.width, gray.height), enlarge);
  const [width, height] = [gray.width, gray.height].map((n) => Math.max(1, Math.round(n * scale)));
  let small = gray;
  if (scale < 1) small = shrink(gray, width, height);
  else if (width !== gray.width || height !== gray.height) {
    const [sx, sy] = [width / gray.width, height / gray.height];
    const data = warp(gray, [sx, 0, 0.5 * sx - 0.5, 0, sy, 0.5 * sy - 0.5], width, height);
    small = { data, width, height };
  }
  const up = (n) => Math.ceil(n / multiple) * multiple;
  const canvas = new Uint8Array(up(height) * up(width));
  for (let y = 0; y < height; y += 1) {
    canvas.set(small.data.subarray(y * width, (y + 1) * width), y * up(width));
  }
  const image = new ort.Tensor('uint8', canvas, [1, up(height), up(width)]);
  const answer = await detector.session.run({ image });
  const [boxes, scores] = [answer.boxes.data, answer.scores.data];
  const found = [];
  for (let i = 0; i < scores.length; i += 1) {
    if (scores[i] >= Math.max(threshold, minScore ?? 0)) {
      found.push({ box: Array.from(boxes.subarray(4 * i, 4 * i + 4)), score: scores[i] });
    }
  }
  found.sort((a, b) => b.score - a.score);
  const kept = [];
  for (const each of found) {
    if (kept.every((other) => iou(each.box, other.box) < most)) kept.push(each);
  }
  const back = [gray.width / width, gray.height / height, gray.width / width, gray.height / height];
  return kept.map(({ box, score }) => ({ box: box.map((v, i) => v * back[i]), score }));
}

async function ask(gray, crops, style) {
  const side = model.about.input_size[0];
  const k = model.about.schema.keypoint_names.length;
  const batch = new Uint8Array(crops.length * side * side);
  crops.forEach((crop, i) => batch.set(cutCrop(gray, crop, side), i * side * side));
  const image = new ort.Tensor('uint8', batch, [crops.length, side, side, 1]);
  const { xy, confidence } = await model.session.run({ image });
  const styles = model.about.styles.length;
  return crops.map((crop, n) => {
    const back = inverse(crop);
    const points = Array.from({ length: k }, (_, i) => {
      const at = (n * styles + style) * k + i;
      return apply(back, [xy.data[2 * at], xy.data[2 * at + 1]]);
    });
    const confidences = points.map((_, i) => (confidence ? confidence.data[(n * styles + style) * k + i] : null));
    // Mean confidence in the least confident style: a detection counts as a face in every style or in none.
    const least = !confidence ? null : Math.min(...Array.from({ length: styles }, (_, t) =>
      mean(Array.from({ length: k }, (_, i) => confidence.data[(n * styles + t) * k + i]))));
    return { points, confidences, least };
  });
}

async function refine(gray, boxes, style) {
  if (!boxes.length) return [];
  const { keypoint_names: names } = model.about.schema;
  const side = model.about.input_size[0];
  const crops = boxes.map((box) => boxToCrop(box, side));
  const first = await ask(gray, crops, style);
  if (!hasCropPoints(names)) return first;
  // Refinement: predict again on a crop that the first keypoints place upright, as the training crops are.
  const refined = first.map(({ points }) => faceCrop(points, names, side));
  const again = await ask(gray, refined, style);
  return first.map((one, n) => {
    const share = alike(crops[n], refined[n]) ? 0.5 : 1;
    const mix = (a, b) => a + share * (b - a);
    return {
      points: one.points.map(([x, y], i) => [mix(x, again[n].points[i][0]), mix(y, again[n].points[i][1])]),
      confidences: one.confidences.map((c, i) => (c === null ? null : mix(c, again[n].confidences[i]))),
      least: one.least === null ? null : mix(one.least, again[n].least),
    };
  });
}

/** The indices of the detected boxes that show a face: confident enough, and each face once (the first stays). */
function realFaces(found) {
  const { keypoint_names: names } = model.about.schema;
  const kept = [];
  found.forEach(({ points, least }, i) => {
    if (least !== null && least < MIN_FACE_CONFIDENCE) return;
    const apart = (n) => mean(points.map(([x, y], k) => Math.hypot(x - found[n].points[k][0], y - found[n].points[k][1])));
    if (hasCropPoints(names) && kept.some((n) => apart(n) < DUPLICATE_DISTANCE * faceSize(points, names))) return;
    kept.push(i);
  });
  return kept;
}

async function predict({ bitmap, boxes, crops, style, minScore }) {
  const { width, height } = bitmap;
  const gray = grayOf(bitmap, width, height);
  bitmap.close();
  let given = null;
  if (boxes) given = boxes.map((box) => ({ box, score: null }));
  else if (crops) given = [{ box: [0, 0, width, height], score: null }];
  else if (!detector) throw new Error('there is no face detector: draw a box around each face');
  else given = await detect(gray, minScore);
  const { styles } = model.about;
  const wanted = Math.max(0, styles.indexOf(style || 'kaggle-a'));
  const found = await refine(gray, given.map(({ box }) => box), wanted);
  const kept = boxes || crops ? [...found.keys()] : realFaces(found);
  return {
    width,
    height,
    faces: kept.map((n) => ({
      ...given[n],
      points: found[n].points.map(([x, y], i) => ({ x, y, confidence: found[n].confidences[i] })),
    })),
  };
}

// One after the other: a session computes one batch at a time.
let last = Promise.resolve();

self.addEventListener('message', ({ data: { id, job, value } }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ id, value: await { start, predict }[job](value) });
    } catch (error) {
      self.postMessage({ id, problem: String(error?.message ?? error) });
    }
  });
});
