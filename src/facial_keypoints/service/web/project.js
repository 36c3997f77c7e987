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
  const isFace = ({ box, points }) => (!box || box.length === 4) && points?.length === k;
  if (!k || !Array.isArray(records) || !records.every(({ name, faces }) => name && faces?.every(isFace))) {
    throw new Problem(`${file} is a project that is damaged: its images and points do not fit together.`);
  }
  return { schema, records };
}

/** Keeps the work of this page in the browser, apart from that of other pages that are open. */
export class Keeper {
  constructor() {
    this.key = `${Date.now()}-${Math.random().toString(36).slice(2)}`;
    this.kept = false;
    navigator.locks?.request(this.key, () => new Promise(() => {})); // held while the page is open
  }

  async #store(mode, act) {
    const opening = indexedDB.open('facial-keypoints', 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore('work');
    const done = (request, event) => new Promise((resolve, reject) => {
      request[event] = resolve;
      for (const failed of ['onerror', 'onabort']) request[failed] = () => reject(request.error);
    });
    await done(opening, 'onsuccess');
    const database = opening.result;
    try {
      const transaction = database.transaction('work', mode);
      const request = act(transaction.objectStore('work'));
      await done(transaction, 'oncomplete');
      return request.result;
    } finally {
      database.close();
    }
  }

  /** The work {key, time, content} of pages that are closed, newest first. */
  async found() {
    const all = await this.#store('readonly', (store) => store.getAll());
    const { held = [] } = (await navigator.locks?.query()) ?? {};
    const open = new Set(held.map(({ name }) => name));
    return all.filter(({ key }) => !open.has(key)).sort((a, b) => b.time - a.time);
  }

  /** Keep a project's content; without records nothing is kept. */
  async keep(content) {
    if (!content.records.length && !this.kept) return;
    this.kept = content.records.length > 0;
    if (this.kept) await this.#store('readwrite', (store) => store.put({ key: this.key, time: Date.now(), content }, this.key));
    else await this.forget(this.key);
  }

  forget(key) {
    return this.#store('readwrite', (store) => store.delete(key));
  }
}
