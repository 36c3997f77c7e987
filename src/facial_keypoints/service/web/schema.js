// The keypoints that are labelled: a schema from the JSON file that `--schema` takes, or from the names of labels.
// A schema is {name, keypoint_names, pairs, norm_pair, edges}: pairs and norm_pair by name, edges by index.

import { Problem } from './engines.js';

const KEYS = ['name', 'keypoints', 'pairs', 'norm_pair', 'edges'];

const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);

/** Whether the content of a JSON file describes a schema. */
export const isSchema = (content) => isObject(content) && 'keypoints' in content && !('annotations' in content);

/** The schema of a file's content, checked as the command line checks it. */
export function readSchema(content, file) {
  const unknown = Object.keys(content).find((key) => !KEYS.includes(key));
  if (unknown) throw new Problem(`${file}: unknown entry “${unknown}”; known are ${KEYS.join(', ')}.`);
  const names = content.keypoints;
  if (!Array.isArray(names) || !names.length || !names.every((name) => typeof name === 'string' && name)) {
    throw new Problem(`${file}: “keypoints” must list the names of the keypoints.`);
  }
  if (new Set(names).size !== names.length) throw new Problem(`${file}: “keypoints” names a keypoint twice.`);
  const pairsOf = (key, value) => {
    if (!Array.isArray(value)) throw new Problem(`${file}: “${key}” takes pairs of two names.`);
    for (const pair of value) {
      if (!Array.isArray(pair) || pair.length !== 2) throw new Problem(`${file}: “${key}” takes pairs of two names.`);
      const other = pair.find((name) => !names.includes(name));
      if (other !== undefined) throw new Problem(`${file}: “${key}” names “${other}”, which is not in “keypoints”.`);
    }
    return value;
  };
  const pairs = pairsOf('pairs', content.pairs ?? []);
  if (new Set(pairs.flat()).size !== 2 * pairs.length) {
    throw new Problem(`${file}: “pairs” names a keypoint twice; a keypoint has one left/right partner.`);
  }
  const [norm] = content.norm_pair ? pairsOf('norm_pair', [content.norm_pair]) : [null];
  return {
    name: String(content.name ?? file.replace(/^.*[/\\]/, '').replace(/\.[^.]*$/, '')),
    keypoint_names: names, pairs, norm_pair: norm,
    edges: pairsOf('edges', content.edges ?? []).map((pair) => pair.map((name) => names.indexOf(name))),
  };
}

/** A schema of labels that nobody has described. */
export const schemaOfNames = (names, edges = []) =>
  ({ name: 'own', keypoint_names: names, pairs: [], norm_pair: null, edges });

/** The content of a schema's file, for `--schema`. A model's schema has `swap`, the index of each point's partner. */
export function schemaFile({ name, keypoint_names: names, swap = [], pairs = pairsOf(swap, names), norm_pair: norm, edges }) {
  return {
    name, keypoints: names, ...(pairs?.length ? { pairs } : {}), ...(norm ? { norm_pair: norm } : {}),
    edges: edges.map((pair) => pair.map((k) => names[k])),
  };
}

const pairsOf = (swap, names) => swap.flatMap((j, i) => (i < j ? [[names[i], names[j]]] : []));

const absent = (byHand) => ({ x: null, y: null, confidence: null, occluded: false, byHand, was: [null, null] });

/** The points in the order of other names; those that `from` does not have are absent. */
export function pointsFor(points, from, to) {
  return to.map((name) => points[from.indexOf(name)] ?? absent(false));
}

/** The names of keypoints that are placed somewhere in the faces and that `to` does not have. */
export function lostNames(faces, from, to) {
  return from.filter((name, k) => !to.includes(name) && faces.some(({ points }) => points[k].x !== null));
}
