// Crops around faces, with the same numbers as in the Python package.
// A map is [a, b, c, d, e, f]: x' = a x + b y + c, y' = d x + e y + f. Integers are pixel centres; boxes are edges.

const FACE_SIZE = 36.2 / 96;
const EYE_LINE = 37 / 96;
const FACE_LENGTH = 1 / 0.93;
const NEEDED = ['left_eye_center', 'right_eye_center', 'mouth_left_corner', 'mouth_right_corner'];

/** Numbers of the iBUG points whose mean is one of the 15 points: FROM_IBUG68 of schemas.py. */
export const FROM_IBUG68 = {
  left_eye_center: [42, 43, 44, 45, 46, 47], right_eye_center: [36, 37, 38, 39, 40, 41],
  left_eye_inner_corner: [42], left_eye_outer_corner: [45], right_eye_inner_corner: [39], right_eye_outer_corner: [36],
  left_eyebrow_inner_end: [22], left_eyebrow_outer_end: [26], right_eyebrow_inner_end: [21], right_eyebrow_outer_end: [17],
  nose_tip: [30], mouth_left_corner: [54], mouth_right_corner: [48],
  mouth_center_top_lip: [51], mouth_center_bottom_lip: [57],
};

/** Indices of the points whose mean is the point `name`: its own, or those of FROM_IBUG68; none if one is lacking. */
export function sourcePoints(names, name) {
  if (names.includes(name)) return [names.indexOf(name)];
  const found = (FROM_IBUG68[name] ?? []).map((n) => names.indexOf(`ibug68_${n}`));
  return found.includes(-1) ? [] : found;
}

/** Whether a schema has, or tells, the four points that placing a crop needs. */
export const hasCropPoints = (names) => NEEDED.every((name) => sourcePoints(names, name).length);

export function apply(map, [x, y]) {
  return [map[0] * x + map[1] * y + map[2], map[3] * x + map[4] * y + map[5]];
}

export function inverse([a, b, c, d, e, f]) {
  const det = a * e - b * d;
  return [e / det, -b / det, (b * f - e * c) / det, -d / det, a / det, (d * c - a * f) / det];
}

/** The map that does `first`, then `second`. */
export function compose(second, first) {
  const [a, b, c, d, e, f] = second;
  const [p, q, r, s, t, u] = first;
  return [a * p + b * s, a * q + b * t, a * r + b * u + c, d * p + e * s, d * q + e * t, d * r + e * u + f];
}

/**
 * The map of the square around a box to `side` pixels; it shows a face that is turned by `degrees` upright. The crop is
 * `wider` times the square, from the same top edge.
 */
export function boxToCrop([x0, y0, x1, y1], side, degrees = 0, wider = 1) {
  const scale = side / wider / Math.max(x1 - x0, y1 - y0);
  const angle = (degrees * Math.PI) / 180;
  return crop(scale, angle, [(x0 + x1) / 2 - 0.5, (y0 + y1) / 2 - 0.5], [side / 2 - 0.5, side / 2 / wider - 0.5]);
}

/** The map that enlarges an image, rotates it counterclockwise, and brings `from` to `to`. */
function crop(scale, angle, from, to) {
  const [cos, sin] = [scale * Math.cos(angle), scale * Math.sin(angle)];
  return [
    cos, sin, to[0] - cos * from[0] - sin * from[1],
    -sin, cos, to[1] + sin * from[0] - cos * from[1],
  ];
}

/** By how many degrees a face is turned, clockwise; null where one of the four points is not known. */
export function faceAngle(xy, names) {
  if (!hasCropPoints(names)) return null;
  const { left, right, middle, mouth } = parts(xy, names);
  const x = left[0] - right[0] + mouth[1] - middle[1];
  const y = left[1] - right[1] - mouth[0] + middle[0];
  const angle = (Math.atan2(y, x) * 180) / Math.PI;
  return Number.isNaN(angle) ? null : angle;
}

function parts(xy, names) {
  const [left, right, mouthLeft, mouthRight] = NEEDED.map((name) => {
    const points = sourcePoints(names, name).map((i) => xy[i]);
    return [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  });
  const mouth = [(mouthLeft[0] + mouthRight[0]) / 2, (mouthLeft[1] + mouthRight[1]) / 2];
  const middle = [(left[0] + right[0]) / 2, (left[1] + right[1]) / 2];
  const apart = Math.hypot(left[0] - right[0], left[1] - right[1]);
  const length = Math.hypot(middle[0] - mouth[0], middle[1] - mouth[1]);
  return { left, right, middle, mouth, size: Math.max(apart, length / FACE_LENGTH) };
}

/** Size of a face: the distance of the eyes, or, where yaw shortens that, a size from the length of the face. */
export const faceSize = (xy, names) => parts(xy, names).size;

/** Face box [x0, y0, x1, y1] of points [[x, y], ...]; null where one of the four is not known. */
export function faceBox(xy, names) {
  if (!hasCropPoints(names)) return null;
  const { middle, size } = parts(xy, names);
  if (!(size > 0)) return null;
  const side = size / FACE_SIZE;
  const quarters = Math.round(faceAngle(xy, names) / 90) * (Math.PI / 2);
  const down = side * (0.5 - EYE_LINE);
  const x = middle[0] + 0.5 - down * Math.round(Math.sin(quarters));
  const y = middle[1] + 0.5 + down * Math.round(Math.cos(quarters));
  return [x - side / 2, y - side / 2, x + side / 2, y + side / 2];
}

/** The crop that shows a face upright, as Kaggle's images do, but `wider` times as wide from the same top edge. */
export function faceCrop(xy, names, side, wider = 1) {
  const { left, right, middle, size } = parts(xy, names);
  const scale = (FACE_SIZE * side) / wider / Math.max(size, 2);
  const angle = Math.atan2(left[1] - right[1], left[0] - right[0]);
  return crop(scale, angle, middle, [(side - 1) / 2, (EYE_LINE * side) / wider - 0.5]);
}

/** Whether two crops differ by less than a quarter in scale and 25 degrees in rotation. */
export function alike(first, second) {
  const between = compose(second, inverse(first));
  const scale = Math.hypot(between[0], between[1]);
  const angle = (Math.atan2(between[1], between[0]) * 180) / Math.PI;
  return scale > 0.8 && scale < 1.25 && Math.abs(angle) < 25;
}

/** Overlap of two boxes: the area of both over the area of either. */
export function iou(a, b) {
  const common =
    Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) *
    Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return common / (area(a) + area(b) - common);
}

/** Non-maximum suppression: of faces {box, score} that overlap too much, the best stays; best first. */
export function nms(found, threshold) {
  const kept = [];
  for (const face of [...found].sort((a, b) => b.score - a.score)) {
    if (kept.every(({ box }) => iou(face.box, box) < threshold)) kept.push(face);
  }
  return kept;
}
