// Reads files that are no images: labels (this package's csv, COCO keypoints), `suspects.csv` of `data audit`, schemas
// and projects; the service makes COCO of other labels. Which of these a file is, its content decides. Labels wait by the
// name of their image until it is there.

import { Problem } from './engines.js';
import { isSchema, readSchema } from './schema.js';
import { isProject, readProject } from './project.js';

const isYaml = ({ name }) => /\.ya?ml$/i.test(name);

/** Those of the files that may hold labels, a schema or a project. */
export async function dataOf(files) {
  const found = [];
  for (const file of files) {
    let may = /^[^.].*\.(json|csv|tsv|h5|xml|tps|pts|ya?ml)$/i.test(file.name);
    // A text file may hold labels of YOLO, beside its yaml, or be one of WFLW's lists: 98 points a line.
    if (/^[^.].*\.txt$/i.test(file.name)) {
      may = files.some(isYaml) || (await file.slice(0, 1 << 14).text()).split('\n', 1)[0].split(/\s+/).length > 2 * 98;
    }
    if (may) found.push(file);
  }
  return found;
}

const IMAGE_COLUMNS = ['image', 'filename', 'file_name', 'file', 'image_name', 'image_path', 'path', 'source'];
const BOXES = [['x0', 'y0', 'x1', 'y1'], ['xmin', 'ymin', 'xmax', 'ymax'], ['left', 'top', 'right', 'bottom']];
const NOT_FACTS = ['face', 'score', 'angle', 'style', 'frame', 'time_s'];
const FARTHEST = 1e5; // pixels; a coordinate beyond is a slip

/**
 * What a file holds: {kind: 'labels', names, edges, records, leftOut}, {kind: 'suspects', suspects},
 * {kind: 'schema', schema}, {kind: 'project', schema, records}, or {kind: 'other', group} if the service must read it,
 * with all files of the same group. A record is {name, size, faces, checked, corrected}: an image's name, its [width,
 * height] or null, and its faces {box, points: [{x, y, occluded}] by `names`, ...}.
 */
export async function readData(file) {
  const text = decoded(await file.arrayBuffer());
  const name = file.webkitRelativePath || file.name;
  const [suffix] = /[^.]*$/.exec(file.name.toLowerCase());
  if (isYaml(file) && !text.includes('kpt_shape')) return { kind: 'other', group: name }; // a schema, alone
  if (isYaml(file) || suffix === 'txt') return { kind: 'other', group: 'yolo' };
  if (suffix === 'h5') return { kind: 'other', group: 'csv' }; // DeepLabCut's, which has a csv beside it
  if (!['json', 'csv', 'tsv'].includes(suffix)) return { kind: 'other', group: suffix };
  if (!/\.json$/i.test(file.name)) return readTable(text, name);
  let content;
  try {
    content = JSON.parse(text);
  } catch (error) {
    throw new Problem(`${name} is no JSON (${error.message}).`);
  }
  if (isProject(content)) return { kind: 'project', ...readProject(content, name) };
  if (isSchema(content)) return { kind: 'schema', schema: readSchema(content, name) };
  if (Array.isArray(content?.annotations) && Array.isArray(content?.images)) return readCoco(content, name);
  return { kind: 'other', group: suffix };
}

/** The files of a group as the service reads them: `lines` says what was read. */
export async function readByService(files, convert) {
  const { files: { 'annotations.json': coco }, schema, read } = await convert(files, 'coco');
  const own = readSchema(schema, files[0].name);
  if (!coco) return { kind: 'schema', schema: own };
  return { ...readCoco(JSON.parse(coco), files[0].name), schema: own, lines: read };
}

function decoded(bytes) {
  const head = new Uint8Array(bytes.slice(0, 2));
  if (head[0] === 0xff && head[1] === 0xfe) return new TextDecoder('utf-16le').decode(bytes);
  if (head[0] === 0xfe && head[1] === 0xff) return new TextDecoder('utf-16be').decode(bytes);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder('windows-1252').decode(bytes);
  }
}

// --- tables -----------------------------------------------------------------------------------------------------

/** The cells of a table; commas, semicolons or tabs, whichever its first line has most of. */
export function cellsOf(text) {
  const first = text.split(/\r?\n/, 1)[0];
  const between = [',', ';', '\t'].sort((a, b) => first.split(b).length - first.split(a).length)[0];
  const rows = [];
  let row = [];
  let cell = '';
  let quoted = false;
  for (let i = 0; i < text.length; i += 1) {
    const c = text[i];
    if (quoted) {
      if (c !== '"') cell += c;
      else if (text[i + 1] === '"') {
        cell += c;
        i += 1;
      } else quoted = false;
    } else if (c === '"' && cell === '') quoted = true;
    else if (c === between || c === '\n') {
      row.push(cell.trim());
      cell = '';
      if (c === '\n') {
        rows.push(row);
        row = [];
      }
    } else cell += c;
  }
  if (quoted) throw new Problem('a quotation mark is not closed');
  if (cell || row.length) rows.push([...row, cell.trim()]);
  return rows.filter((cells) => cells.some(Boolean));
}

function readTable(text, file) {
  let rows;
  try {
    rows = cellsOf(text);
  } catch (error) {
    throw new Problem(`${file} cannot be read: ${error.message}.`);
  }
  const [header = [], ...body] = rows;
  const lower = header.map((name) => name.toLowerCase());
  const image = IMAGE_COLUMNS.map((name) => header[lower.indexOf(name)]).find(Boolean);
  const names = header.filter((name) => /._x$/.test(name)).map((name) => name.slice(0, -2));
  const isSuspects = ['sample_id', 'keypoint', 'score'].every((name) => header.includes(name));
  const isKaggle = /^\d+ \d+ /.test(body[0]?.[header.indexOf(image)]); // with the image's pixels
  if (!isSuspects && (!image || !names.length || isKaggle)) return { kind: 'other', group: 'csv' };
  const repeated = header.find((name, i) => name && header.indexOf(name) !== i);
  if (repeated) throw new Problem(`${file} has two columns “${repeated}”.`);
  const long = body.findIndex((cells) => cells.length !== header.length);
  if (long >= 0) {
    throw new Problem(`${file}, row ${long + 1} has ${body[long].length} cells, its header ${header.length}.`);
  }
  const table = body.map((cells) => Object.fromEntries(header.map((name, i) => [name, cells[i]])));
  if (isSuspects) return readSuspects(table);
  const single = names.find((name) => !header.includes(`${name}_y`));
  if (single) throw new Problem(`${file} has no column “${single}_y”.`);
  const seen = names.map((name) => ['visibility', 'v', 'visible'].map((word) => `${name}_${word}`).find((word) => header.includes(word)));
  const sides = BOXES.find((four) => four.every((side) => header.includes(side))) ?? [];
  const used = new Set([image, ...sides, ...NOT_FACTS, ...seen]);
  for (const name of names) for (const end of ['x', 'y', 'confidence']) used.add(`${name}_${end}`);
  const facts = header.filter((name) => name && !used.has(name));
  const faces = [];
  const leftOut = new Map();
  table.forEach((row, n) => {
    const where = `${file}, row ${n + 1}`;
    if (!row[image]) {
      count(leftOut, 'rows that name no image');
      return;
    }
    const points = names.map((name, k) => {
      const [x, y] = [numberOf(row[`${name}_x`], where), numberOf(row[`${name}_y`], where)];
      if ((x === null) !== (y === null)) throw new Problem(`${where}: “${name}” has one coordinate: give both or none.`);
      // Predictions of a model have a confidence; other points were placed by hand.
      const confidence = numberOf(row[`${name}_confidence`], where);
      return { ...pointOf(name, x, y, visibilityOf(row[seen[k]], seen[k]), where), ...(confidence === null ? {} : { confidence, byHand: false }) };
    });
    const box = sides.map((side) => numberOf(row[side], where));
    const whole = box.length && !box.includes(null) && box[0] < box[2] && box[1] < box[3];
    const about = Object.fromEntries(facts.filter((name) => row[name]).map((name) => [name, row[name]]));
    faces.push({ image: row[image], box: whole ? box : null, points, about, style: row.style ?? '', score: numberOf(row.score, where) });
  });
  return { kind: 'labels', names, edges: [], records: recordsOf(faces, new Map()), leftOut };
}

const count = (counts, what) => counts.set(what, (counts.get(what) ?? 0) + 1);

function numberOf(text, where) {
  if (text === '' || text === undefined || /^nan$/i.test(text)) return null;
  const value = Number(text);
  if (!Number.isFinite(value)) throw new Problem(`${where}: “${text}” is no number.`);
  return value;
}

/** COCO's visibility of a cell; a column NAME_visible holds yes or no. */
function visibilityOf(text, column) {
  if (!text) return 2;
  if (/_visible$/.test(column)) return /^[0fn]/i.test(text) ? 1 : 2;
  return Number(text);
}

function pointOf(name, x, y, visibility, where) {
  if (x === null || !visibility) return { x: null, y: null, occluded: false };
  if (Math.max(Math.abs(x), Math.abs(y)) > FARTHEST) throw new Problem(`${where}: “${name}” is at (${x}, ${y}), which is no place in pixels.`);
  return { x, y, occluded: visibility === 1 };
}

/** The suspected labels in their order: {image, face, keypoint}. */
function readSuspects(table) {
  const suspects = table.map(({ sample_id: id, keypoint }) => {
    const [, image, face] = /^(.*?)(?:#(\d+))?$/.exec(id);
    return { image, face: Number(face ?? 0), keypoint };
  });
  if (!suspects.length) throw new Problem('No label is suspected in this table.');
  return { kind: 'suspects', suspects };
}

// --- COCO -------------------------------------------------------------------------------------------------------

function readCoco(content, file) {
  const bad = (why) => new Problem(`${file} cannot be read as COCO keypoints: ${why}.`);
  const categories = new Map((content.categories ?? []).map((category) => [String(category?.id), category]));
  const images = new Map(content.images.map((image) => [String(image?.id), image]));
  const names = [...new Set([...categories.values()].flatMap((category) => category?.keypoints ?? []))].map(String);
  if (!names.length) throw bad('no category has keypoints');
  const kinds = [...categories.values()].filter((category) => category?.keypoints?.length);
  const leftOut = new Map();
  const faces = [];
  content.annotations.forEach((annotation, n) => {
    const image = images.get(String(annotation.image_id));
    const category = categories.get(String(annotation.category_id));
    const values = annotation.keypoints;
    if (!image?.file_name) count(leftOut, 'annotations of an image that is not listed');
    else if (annotation.iscrowd) count(leftOut, 'annotations of crowds');
    else if (!values?.length) count(leftOut, 'annotations without keypoints');
    else if (!category || values.length !== 3 * (category.keypoints?.length ?? 0)) {
      count(leftOut, 'annotations with another number of keypoints than their category');
    } else {
      const own = category.keypoints.map(String);
      if (!values.every((value) => Number.isFinite(value))) throw bad(`annotation ${n + 1} has keypoints that are no numbers`);
      const points = names.map((name) => {
        const k = own.indexOf(name);
        return k < 0 ? { x: null, y: null, occluded: false }
          : pointOf(name, ...values.slice(3 * k, 3 * k + 3), `${file}, annotation ${n + 1}`);
      });
      const { bbox_from_points: made, style = annotation.style ?? '', ...about } = annotation.attributes ?? {};
      const [x, y, width, height] = annotation.bbox ?? [0, 0, 0, 0];
      const box = !made && width > 0 && height > 0 ? [x, y, x + width, y + height] : null;
      faces.push({
        image: String(image.file_name), box, points, style, kind: String(category.name ?? ''),
        about: { ...image.attributes, ...about },
      });
    }
  });
  const sizes = new Map();
  for (const { file_name: name, width, height } of images.values()) if (width && height) sizes.set(String(name), [width, height]);
  const edges = kinds.length === 1 ? (kinds[0].skeleton ?? []).map(([a, b]) => [a - 1, b - 1]) : [];
  const inside = edges.filter((edge) => edge.every((k) => k >= 0 && k < names.length));
  return { kind: 'labels', names, edges: inside, records: recordsOf(faces, sizes), leftOut };
}

function recordsOf(faces, sizes) {
  const records = new Map();
  for (const { image, ...face } of faces) {
    if (!records.has(image)) {
      records.set(image, { name: image, size: sizes.get(image) ?? null, faces: [], checked: false });
    }
    records.get(image).faces.push(face);
  }
  // What a model predicted is no correction.
  for (const record of records.values()) record.corrected = record.faces.some(({ points }) => points.some(({ x, byHand = true }) => x !== null && byHand));
  return [...records.values()];
}

// --- names of images --------------------------------------------------------------------------------------------

const plain = (name) => `/${name.replaceAll('\\', '/').replace(/^\.?\/+/, '')}`;

/**
 * Which image is meant by each name: the one with that name, else the only one of which one name ends with the other
 * (`day1/a.jpg` and `a.jpg`). A name without an image is null, one that could mean several, or share one, undefined.
 */
export function imagesByName(wanted, images) {
  // Only names with the same last part can mean the same image.
  const lastOf = (name) => plain(name).split('/').at(-1);
  const byLast = Map.groupBy(images, ({ name }) => lastOf(name));
  const found = wanted.map((name) => {
    const here = byLast.get(lastOf(name)) ?? [];
    const same = here.filter((image) => plain(image.name) === plain(name));
    const alike = same.length ? same
      : here.filter((image) => plain(image.name).endsWith(plain(name)) || plain(name).endsWith(plain(image.name)));
    return alike.length === 1 ? { image: alike[0], exact: same.length === 1 } : alike.length ? undefined : null;
  });
  // Two names for one image: the exact one is right; without it nothing tells which.
  return found.map((each) => {
    if (!each) return each;
    const rivals = found.filter((other) => other?.image === each.image);
    return (each.exact ? rivals.filter(({ exact }) => exact).length : rivals.length) === 1 ? each.image : undefined;
  });
}

// --- dropped files ----------------------------------------------------------------------------------------------

/** Every file of what was dropped, folders too. */
export async function droppedFiles(items) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = [];
  const walk = async (entry, path) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
      if (path) Object.defineProperty(file, 'webkitRelativePath', { value: path + file.name });
      files.push(file);
      return;
    }
    const reader = entry.createReader();
    for (;;) { // a reader returns at most a hundred entries
      const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
      if (!some.length) return;
      for (const each of some) await walk(each, `${path}${entry.name}/`);
    }
  };
  for (const entry of entries) await walk(entry, '');
  return files;
}
