// Downloads: tables as the command line writes them, and labelled faces for training.

import { boxToCrop, faceAngle, faceBox } from './crops.js';
import { cutCrop, grayOf } from './pixels.js';
import { measure } from './measurement.js';
import { drawFaces } from './viewer.js';

const KAGGLE_SIDE = 96;

const round = (value, digits) => (value === null ? null : Math.round(value * 10 ** digits) / 10 ** digits);

function cell(value) {
  if (value === null) return '';
  const text = String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const csvOf = (lines) => lines.map((line) => `${line.map(cell).join(',')}\n`).join('');

const pointsOf = (face) => face.points.map(({ x, y }) => (x === null ? [NaN, NaN] : [x, y]));

/** One row a face, the columns of `facial-keypoints predict` and its label style. */
function rowsOf(images, names) {
  return images.flatMap((image) =>
    image.faces.map((face, n) => {
      const row = { source: image.name, face: n };
      ['x0', 'y0', 'x1', 'y1'].forEach((side, i) => { row[side] = round(face.box[i], 3); });
      row.score = round(face.score, 4);
      row.angle = round(faceAngle(pointsOf(face), names), 1);
      names.forEach((name, k) => {
        const { x, y, confidence } = face.points[k];
        row[`${name}_x`] = round(x, 3);
        row[`${name}_y`] = round(y, 3);
        row[`${name}_confidence`] = round(confidence, 4);
      });
      row.style = face.style;
      return row;
    }),
  );
}

const columnsOf = (names) => [
  'source', 'face', 'x0', 'y0', 'x1', 'y1', 'score', 'angle',
  ...names.flatMap((name) => [`${name}_x`, `${name}_y`, `${name}_confidence`]),
];

export function toCsv(images, names) {
  const columns = [...columnsOf(names), 'style'];
  return csvOf([columns, ...rowsOf(images, names).map((row) => columns.map((column) => row[column]))]);
}

export function toJson(images, names) {
  const rows = rowsOf(images, names).map((row) => JSON.stringify(row));
  return rows.length ? `[\n${rows.join(',\n')}\n]\n` : '[]\n';
}

/** One row a face, the columns of `facial-keypoints measure` and its label style. */
export function toMeasurementCsv(images, names) {
  const lines = images.flatMap((image) =>
    image.faces.map((face, n) => {
      const { rows, warnings } = measure(face.points, names);
      const place = [image.name, n, ...face.box.map((v) => round(v, 3)), round(face.score, 4), round(faceAngle(pointsOf(face), names), 1)];
      const numbers = rows.flatMap(({ value, sigma }) => [round(value, 5), round(sigma, 5)]);
      return { line: [...place, ...numbers, warnings.join(', '), face.style], rows };
    }),
  );
  const measures = lines[0]?.rows.flatMap(({ name }) => [name, `${name}_sigma`]) ?? [];
  return csvOf([[...columnsOf([]), ...measures, 'warnings', 'style'], ...lines.map(({ line }) => line)]);
}

/** The square crop of a face: placed by its points as in Kaggle's images, or else around its box. */
function cropBox(face, names) {
  const placed = faceBox(pointsOf(face), names);
  if (placed) return placed;
  const [x0, y0, x1, y1] = face.box;
  const half = Math.max(x1 - x0, y1 - y0) / 2;
  const [x, y] = [(x0 + x1) / 2, (y0 + y1) / 2];
  return [x - half, y - half, x + half, y + half];
}

/**
 * Kaggle's training.csv: 30 coordinates and 96 x 96 grey pixels a face; a point that is absent, or not on the crop,
 * is empty. Kaggle's format cannot mark points as occluded: they are labelled.
 * @param bitmapOf gives the decoded image
 */
export async function toKaggle(images, names, bitmapOf) {
  const lines = [[...names.flatMap((name) => [`${name}_x`, `${name}_y`]), 'Image'].join(',')];
  for (const image of images) {
    if (!image.faces.length) continue;
    const bitmap = await bitmapOf(image);
    const gray = grayOf(bitmap, bitmap.width, bitmap.height);
    for (const face of image.faces) {
      const map = boxToCrop(cropBox(face, names), KAGGLE_SIDE);
      const inside = (v) => v >= -0.5 && v <= KAGGLE_SIDE - 0.5;
      const labels = face.points.flatMap(({ x, y }) => {
        if (x === null) return ['', ''];
        const [u, v] = [map[0] * x + map[2], map[4] * y + map[5]];
        return inside(u) && inside(v) ? [round(u, 4), round(v, 4)] : ['', ''];
      });
      lines.push([...labels, cutCrop(gray, map, KAGGLE_SIDE).join(' ')].join(','));
    }
  }
  return `${lines.join('\n')}\n`;
}

const safeName = (name) => name.replace(/^.*[/\\]/, '').replace(/[^\w.-]+/g, '_');

/** Whether a file has EXIF data: its pixels may be stored rotated, and readers that ignore EXIF would not rotate them. */
async function hasExif(file) {
  const head = new Uint8Array(await file.slice(0, 1 << 16).arrayBuffer());
  return /exif/i.test(new TextDecoder('latin1').decode(head)); // PNG spells it eXIf
}

async function encoded(image, bitmapOf) {
  const { file } = image;
  const suffix = { 'image/png': '.png', 'image/jpeg': '.jpg', 'image/webp': '.webp' }[file.type];
  const stem = safeName(image.name).replace(/\.[^.]*$/, '') || 'image';
  if (suffix && !(await hasExif(file))) return [stem + suffix, new Uint8Array(await file.arrayBuffer())];
  const blob = await imageBlob(await bitmapOf(image), 'image/jpeg', 0.95);
  return [`${stem}.jpg`, new Uint8Array(await blob.arrayBuffer())];
}

export function imageBlob(bitmap, type, quality) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext('2d').drawImage(bitmap, 0, 0);
  return canvas.convertToBlob({ type, quality });
}

/**
 * COCO keypoints: visibility 0 absent, 1 occluded, 2 visible.
 * @param names of the images
 * @param boxOf the box of a face; one that nobody drew is marked
 */
function cocoOf(images, names, schema, boxOf) {
  const entries = images.map(({ width, height }, n) => ({ id: n + 1, file_name: names[n], width, height }));
  const annotations = images.flatMap(({ faces }, n) => faces.map((face) => {
    const attributes = { ...face.about, ...(face.style ? { style: face.style } : {}), ...(face.guessed ? { bbox_from_points: true } : {}) };
    const [x0, y0, x1, y1] = boxOf(face).map((v) => round(v, 3));
    return {
      image_id: n + 1,
      category_id: 1,
      bbox: [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)],
      area: round((x1 - x0) * (y1 - y0), 1),
      iscrowd: 0,
      keypoints: face.points.flatMap(({ x, y, occluded }) =>
        x === null ? [0, 0, 0] : [round(x, 3), round(y, 3), occluded ? 1 : 2],
      ),
      num_keypoints: face.points.filter(({ x }) => x !== null).length,
      ...(Object.keys(attributes).length ? { attributes } : {}),
    };
  }));
  const skeleton = schema.edges.map(([a, b]) => [a + 1, b + 1]); // COCO counts from 1
  const kind = images.flatMap(({ faces }) => faces).find((face) => face.kind)?.kind ?? 'face';
  const categories = [{ id: 1, name: kind, keypoints: schema.keypoint_names, skeleton }];
  const content = { images: entries, annotations: annotations.map((each, n) => ({ id: n + 1, ...each })), categories };
  return JSON.stringify(content, null, 1);
}

/** The labels as they are on the page, for the service to convert. */
export const toConvert = (images, schema) =>
  cocoOf(images, images.map(({ name }) => name), schema, ({ box }) => box);

/** COCO keypoints with the photos, as a zip: `annotations.json` and `images/`. */
export async function toCoco(images, schema, bitmapOf) {
  const files = [];
  for (const image of images) {
    const [name, bytes] = await encoded(image, bitmapOf);
    files.push([`images/${String(files.length + 1).padStart(6, '0')}-${name}`, bytes]);
  }
  // A box that was loaded with labels stays; others are placed as training cuts faces out.
  const boxOf = (face) => (face.about && !face.guessed ? face.box : faceBox(pointsOf(face), schema.keypoint_names) ?? face.box);
  const text = cocoOf(images, files.map(([path]) => path), schema, boxOf);
  return zipOf([['annotations.json', new TextEncoder().encode(text)], ...files]);
}

/** The image at its own size with points and boxes, as PNG. */
export async function toPng(bitmap, scene) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext('2d');
  context.drawImage(bitmap, 0, 0);
  const unit = Math.max(1, Math.max(bitmap.width, bitmap.height) / 1000);
  drawFaces(context, { scale: 1, x: 0, y: 0 }, { ...scene, face: -1, point: null, hover: null, unit });
  return canvas.convertToBlob({ type: 'image/png' });
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k += 1) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c >>> 0;
});

function crc32(bytes) {
  let c = 0xffffffff;
  for (const byte of bytes) c = CRC[(c ^ byte) & 255] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

/** A zip of [path, bytes] without compression: images are compressed already. */
export function zipOf(files) {
  const text = new TextEncoder();
  const parts = [];
  const directory = [];
  let at = 0;
  for (const [path, bytes] of files) {
    const name = text.encode(path);
    const head = new DataView(new ArrayBuffer(30));
    const about = (view, from) => {
      view.setUint16(from, 20, true); // version needed
      view.setUint16(from + 2, 0x0800, true); // names are UTF-8
      view.setUint16(from + 4, 0, true); // stored
      view.setUint32(from + 6, 0x00210000, true); // 1980-01-01: the same labels give the same file
      view.setUint32(from + 10, crc32(bytes), true);
      view.setUint32(from + 14, bytes.length, true);
      view.setUint32(from + 18, bytes.length, true);
      view.setUint16(from + 22, name.length, true);
    };
    head.setUint32(0, 0x04034b50, true);
    about(head, 4);
    const entry = new DataView(new ArrayBuffer(46));
    entry.setUint32(0, 0x02014b50, true);
    entry.setUint16(4, 20, true);
    about(entry, 6);
    entry.setUint32(42, at, true);
    parts.push(head, name, bytes);
    directory.push(entry, name);
    at += 30 + name.length + bytes.length;
  }
  const size = directory.reduce((sum, part) => sum + part.byteLength, 0);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, files.length, true);
  end.setUint16(10, files.length, true);
  end.setUint32(12, size, true);
  end.setUint32(16, at, true);
  return new Blob([...parts, ...directory, end], { type: 'application/zip' });
}

/** Start the download of a file. */
export function save(content, name, type = 'text/plain') {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
