// Finds faces and their keypoints in the browser, in a worker, so that the page stays responsive.
// The steps are those of the Python package: detector.js, refine_boxes of inference/refine.py, and predict_detected of
// inference/predictor.py.

import { alike, apply, boxToCrop, compose, hasCropPoints, faceSize, faceCrop, inverse } from './crops.js';
import { FaceDetector } from './detector.js';
import { metadataOf } from './onnx-about.js';
import { cutCrop, grayOf } from './pixels.js';

const LOW_CONFIDENCE = 0.6; // mean confidence below which a face is also predicted upside down
const OVER_MARGIN = 0.2; // by how much its mean confidence must be higher then
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
  const found = await open(files.detector, 'facial_keypoints_detector');
  detector = found && new FaceDetector(async ({ data, width, height }) => {
    const image = new ort.Tensor('uint8', data, [1, height, width]);
    const { boxes, scores } = await found.session.run({ image });
    return { boxes: boxes.data, scores: scores.data };
  }, found.about);
  const { schema, styles, input_size: [height, width], channels } = model.about;
  if (height !== width || channels !== 1) throw new Error('only models of square grey crops run in the browser');
  return { schema, styles };
}

async function ask(gray, crops, style) {
  if (!crops.length) return [];
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
    const least = !confidence ? NaN : Math.min(...Array.from({ length: styles }, (_, t) =>
      mean(Array.from({ length: k }, (_, i) => confidence.data[(n * styles + t) * k + i]))));
    return { points, confidences, least };
  });
}

async function refine(gray, boxes, style) {
  const { keypoint_names: names } = model.about.schema;
  const { input_size: [side], crop_scale: wider = 1 } = model.about;
  const crops = boxes.map(({ box, angle }) => boxToCrop(box, side, angle, wider));
  const first = await ask(gray, crops, style);
  const doubtful = [...first.keys()].filter((n) => first[n].least < LOW_CONFIDENCE);
  crops.push(...doubtful.map((n) => compose([-1, 0, side - 1, 0, -1, side - 1], crops[n]))); // upside down
  first.push(...await ask(gray, crops.slice(boxes.length), style));
  // Refinement: predict again on a crop that the first keypoints place upright, as the training crops are.
  const views = hasCropPoints(names) ? first.map(({ points }) => faceCrop(points, names, side, wider)) : crops;
  const second = hasCropPoints(names) ? await ask(gray, views, style) : first;
  return boxes.map((_, n) => {
    // The detector's box of a face upside down lies beside the face: only the refinement counts.
    const over = boxes.length + doubtful.indexOf(n);
    const isOver = doubtful.includes(n) && second[over].least > second[n].least + OVER_MARGIN;
    const i = isOver ? over : n;
    const [one, again] = [first[i], second[i]];
    if (!hasCropPoints(names)) return one;
    const share = !isOver && alike(crops[i], views[i]) ? 0.5 : 1;
    const mix = (a, b) => a + share * (b - a);
    return {
      points: one.points.map(([x, y], k) => [mix(x, again.points[k][0]), mix(y, again.points[k][1])]),
      confidences: one.confidences.map((c, k) => (c === null ? null : mix(c, again.confidences[k]))),
      least: mix(one.least, again.least),
    };
  });
}

/** The indices of the detected boxes that show a face: confident enough, and each face once (the first stays). */
function realFaces(found) {
  const { keypoint_names: names } = model.about.schema;
  const kept = [];
  found.forEach(({ points, least }, i) => {
    if (least < MIN_FACE_CONFIDENCE) return; // NaN: the model gives no confidence
    const apart = (n) => mean(points.map(([x, y], k) => Math.hypot(x - found[n].points[k][0], y - found[n].points[k][1])));
    if (hasCropPoints(names) && kept.some((n) => apart(n) < DUPLICATE_DISTANCE * faceSize(points, names))) return;
    kept.push(i);
  });
  return kept;
}

async function predict({ bitmap, boxes, crops, style, minScore, effort }) {
  const { width, height } = bitmap;
  const gray = grayOf(bitmap, width, height);
  bitmap.close();
  let given = null;
  let smallest = null;
  if (boxes) given = boxes.map((box) => ({ box, score: null }));
  else if (crops) given = [{ box: [0, 0, width, height], score: null }];
  else if (!detector) throw new Error('there is no face detector: draw a box around each face');
  else {
    const detected = await detector.detect(gray, effort);
    given = detected.found.filter(({ score }) => score >= (minScore ?? 0));
    smallest = detected.smallest;
  }
  const { styles } = model.about;
  const wanted = Math.max(0, styles.indexOf(style || 'kaggle-a'));
  const found = await refine(gray, given, wanted);
  const kept = boxes || crops ? [...found.keys()] : realFaces(found);
  return {
    width,
    height,
    smallest,
    faces: kept.map((n) => ({
      box: given[n].box,
      score: given[n].score,
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
