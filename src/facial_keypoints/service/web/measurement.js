// Distances and angles of the 15 points of a face, with error bars: facial_keypoints/inference/measure/measures.py
// again for the browser, so that the numbers follow a point while it is dragged. tests/service/test_page.py compares both.

import { FROM_IBUG68, faceBox, sourcePoints } from './crops.js';

export const NOTICE =
  'Not a medical device: these numbers are for information only and must not be used for diagnosis.';

const NOSE_DEPTH = 0.6;
const TURNED_DEG = 15;
const UNCERTAIN_BELOW = 0.6;
const CONFIDENCE_SIDE = 96;
const CONFIDENCE_RADIUS = 3;
const SMALLEST_SCALE = 0.36;
const STEP = 1e-4;

const EYES = ['left_eye_center', 'right_eye_center'];
const INNER = ['left_eye_inner_corner', 'right_eye_inner_corner'];
const OUTER = ['left_eye_outer_corner', 'right_eye_outer_corner'];
const MOUTH = ['mouth_left_corner', 'mouth_right_corner'];

const sub = (a, b) => [a[0] - b[0], a[1] - b[1]];
const mid = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1];
const length = (a) => Math.hypot(a[0], a[1]);
const degrees = (radians) => (radians * 180) / Math.PI;
const across = (p) => {
  const v = sub(p.left_eye_center, p.right_eye_center);
  const l = length(v);
  return [v[0] / l, v[1] / l];
};
const down = (p) => {
  const [x, y] = across(p);
  return [-y, x];
};

const distance = (a, b, per = EYES) => ({
  unit: 'ratio', per, points: [a, b], of: (p) => length(sub(p[a], p[b])),
});
const browHeight = (side, end) => {
  const [brow, corner] = [`${side}_eyebrow_${end}_end`, `${side}_eye_${end}_corner`];
  return { unit: 'ratio', per: EYES, points: [brow, corner, ...EYES], of: (p) => dot(sub(p[corner], p[brow]), down(p)) };
};
const tilt = (side) => {
  const [inner, outer] = [`${side}_eye_inner_corner`, `${side}_eye_outer_corner`];
  const sign = side === 'left' ? 1 : -1;
  const of = (p) => {
    const line = sub(p.left_eye_inner_corner, p.right_eye_inner_corner).map((v) => v * sign);
    const eye = sub(p[outer], p[inner]);
    return degrees(Math.atan2(-sign * (line[0] * eye[1] - line[1] * eye[0]), dot(line, eye)));
  };
  return { unit: 'degrees', points: [inner, outer, ...INNER], of };
};
const fromMidline = (point) => ({
  unit: 'ratio', per: EYES, points: [point, ...INNER, ...EYES],
  of: (p) => dot(sub(p[point], mid(p[INNER[0]], p[INNER[1]])), across(p)),
});

// `range` is the range of the scale beside a number; it is not a range of normal values.
const MEASURES = {
  inner_canthal: { ...distance(...INNER), range: [0.2, 0.9] },
  outer_canthal: { ...distance(...OUTER), range: [1, 2] },
  interpupillary: { ...distance(...EYES, OUTER), range: [0.4, 1] },
  canthal_index: {
    unit: 'percent', points: [...INNER, ...OUTER], range: [10, 60],
    of: (p) => (100 * length(sub(p[INNER[0]], p[INNER[1]]))) / length(sub(p[OUTER[0]], p[OUTER[1]])),
  },
  left_palpebral_fissure: { ...distance('left_eye_inner_corner', 'left_eye_outer_corner'), range: [0.1, 0.9] },
  right_palpebral_fissure: { ...distance('right_eye_inner_corner', 'right_eye_outer_corner'), range: [0.1, 0.9] },
  left_canthal_tilt: { ...tilt('left'), range: [-30, 30] },
  right_canthal_tilt: { ...tilt('right'), range: [-30, 30] },
  left_brow_inner_height: { ...browHeight('left', 'inner'), range: [0, 0.8] },
  right_brow_inner_height: { ...browHeight('right', 'inner'), range: [0, 0.8] },
  left_brow_outer_height: { ...browHeight('left', 'outer'), range: [0, 0.8] },
  right_brow_outer_height: { ...browHeight('right', 'outer'), range: [0, 0.8] },
  mouth_width: { ...distance(...MOUTH), range: [0.3, 1.5] },
  lip_height: { ...distance('mouth_center_top_lip', 'mouth_center_bottom_lip'), range: [0, 1] },
  nose_to_top_lip: { ...distance('nose_tip', 'mouth_center_top_lip'), range: [0, 0.9] },
  asymmetry: {
    unit: 'ratio', per: EYES, points: [...INNER, ...MOUTH], range: [-0.5, 0.5],
    of: (p) =>
      length(sub(p.left_eye_inner_corner, p.mouth_left_corner)) -
      length(sub(p.right_eye_inner_corner, p.mouth_right_corner)),
  },
  nose_deviation: { ...fromMidline('nose_tip'), range: [-0.5, 0.5] },
  mouth_deviation: { ...fromMidline('mouth_center_top_lip'), range: [-0.5, 0.5] },
  head_roll: {
    unit: 'degrees', points: EYES, range: [-45, 45],
    of: (p) => {
      const [x, y] = across(p);
      return degrees(Math.atan2(y, x));
    },
  },
  head_yaw: {
    unit: 'degrees', points: ['nose_tip', ...EYES], range: [-45, 45],
    of: (p) => {
      const between = sub(p.left_eye_center, p.right_eye_center);
      const offset = dot(sub(p.nose_tip, mid(...EYES.map((name) => p[name]))), between) / dot(between, between);
      return degrees(Math.atan(offset / NOSE_DEPTH));
    },
  },
};

const MEASURE_NAMES = Object.keys(MEASURES);
const FIFTEEN = Object.keys(FROM_IBUG68);

/** Whether a schema has, or tells, the points that are measured. */
export const canMeasure = (names) =>
  FIFTEEN.every((name) => sourcePoints(names, name).length);

function valueOf(measure, points) {
  const value = measure.of(points);
  return measure.per ? value / length(sub(points[measure.per[0]], points[measure.per[1]])) : value;
}

/** Error scale b of a confidence, in pixels of a face box 96 px wide. */
export function errorScale(confidence) {
  // The probability of being within r is 1 - (1 + r/b) exp(-r/b), which rises with r/b: halve the interval.
  let [low, high] = [Math.log(1e-3), Math.log(30)];
  for (let i = 0; i < 50; i += 1) {
    const middle = (low + high) / 2;
    const ratio = Math.exp(middle);
    if (1 - (1 + ratio) * Math.exp(-ratio) < confidence) low = middle;
    else high = middle;
  }
  return Math.max(CONFIDENCE_RADIUS / Math.exp(low), SMALLEST_SCALE);
}

/**
 * Measure one face.
 * @param points the K points {x, y, confidence}; x null = not labelled, confidence null = placed by hand
 * @param names the schema's K names
 * @returns {rows: [{name, unit, value, sigma, range}], warnings: [text]}; value and sigma null where unknown
 */
export function measure(points, names) {
  const xy = {};
  const confidence = {};
  for (const name of FIFTEEN) {
    const parts = sourcePoints(names, name).map((k) => points[k]);
    const known = parts.every(({ x }) => x !== null);
    const mean = (key) => parts.reduce((sum, part) => sum + part[key], 0) / parts.length;
    xy[name] = known ? [mean('x'), mean('y')] : [NaN, NaN];
    confidence[name] = known && parts.every((part) => part.confidence !== null) ? mean('confidence') : null;
  }
  // The model predicted on the crop that is placed by the points, not on the detected box.
  const box = faceBox(FIFTEEN.map((name) => xy[name]), FIFTEEN);
  const scale = box ? (box[2] - box[0]) / CONFIDENCE_SIDE : NaN;
  const sigmas = {};
  for (const name of FIFTEEN) sigmas[name] = confidence[name] === null ? NaN : Math.sqrt(3) * errorScale(confidence[name]) * scale;
  const step = STEP * length(sub(xy[EYES[0]], xy[EYES[1]]));
  const rows = MEASURE_NAMES.map((name) => {
    const each = MEASURES[name];
    const value = valueOf(each, xy);
    let variance = 0;
    for (const point of new Set([...each.points, ...(each.per ?? [])])) {
      for (const axis of [0, 1]) {
        const moved = (by) => {
          const place = [...xy[point]];
          place[axis] += by;
          return valueOf(each, { ...xy, [point]: place });
        };
        let change = moved(step) - moved(-step);
        if (Math.abs(change) > 180) change -= 360 * Math.sign(change);
        variance += ((change / (2 * step)) * sigmas[point]) ** 2;
      }
    }
    const known = Number.isFinite(value);
    const sigma = Math.sqrt(variance);
    return {
      name, unit: each.unit, range: each.range,
      value: known ? value : null, sigma: known && Number.isFinite(sigma) ? sigma : null,
    };
  });
  const warnings = [];
  const yaw = rows.find(({ name }) => name === 'head_yaw').value;
  if (Math.abs(yaw ?? 0) > TURNED_DEG) warnings.push('turned');
  const known = FIFTEEN.map((name) => confidence[name]).filter((c) => c !== null);
  if (known.length && known.reduce((a, b) => a + b, 0) / known.length < UNCERTAIN_BELOW) warnings.push('uncertain');
  if (FIFTEEN.some((name) => Number.isNaN(xy[name][0]))) warnings.push('missing points');
  return { rows, warnings };
}
