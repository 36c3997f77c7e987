// A project: the schema, and the labels of every image by its name, without the photos. Written to a file, and kept in the
// browser (IndexedDB) while one works.

import { Problem } from './engines.js';

const KIND = 'facial-keypoints project';

export const isProject = (content) => content?.kind === KIND;

/** The record of an image, as importing.js describes it; all that its faces hold stays. */
export function recordOf({ name, width, height, faces, checked, corrected, sure }) {
  const plain = ({ points, ...face }) => ({
    ...face, points: points.map(({ x, y, confidence, occluded, byHand }) => ({ x, y, confidence, occluded, byHand })),
  });
  return { name, size: width ? [width, height] : null, checked, corrected, sure, faces: faces.map(plain) };
}

/** A project's content: `records` of images, and `names` of the points in the order that their faces have. */
export const projectOf = (schema, records) => ({ kind: KIND, version: 1, schema, records });

export function readProject(content, file) {
  const { schema, records, version } = content;
  if (version !== 1) throw new Problem(`${file} was written by another version of this page (${version}).`);
  const k = schema?.keypoint_names?.length;
  const isFace = ({ box, points }) => box?.length === 4 && points?.length === k;
  if (!k || !Array.isArray(records) || !records.every(({ name, faces }) => name && faces?.every(isFace))) {
    throw new Problem(`${file} is a project that is damaged: its images and points do not fit together.`);
  }
  return { schema, records };
}
