// The two engines: the service over HTTP, or a worker in this browser. Both answer with
// {width, height, smallest, faces: [{box: [x0, y0, x1, y1], score, points: [{x, y, confidence}]}]} in pixels of the image;
// `smallest` is the side of the smallest face that was looked for, null where no detector ran.

/** An error with a sentence for the user. `stops`: 'away' or 'token' if every other image would meet it too. */
export class Problem extends Error {
  constructor(text, stops = null) {
    super(text);
    this.stops = stops;
  }
}

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

/** A row of the reply as a face. */
function faceOfRow(row, names) {
  const number = (value) => (value === null || value === undefined ? null : Number(value));
  return {
    box: [row.x0, row.y0, row.x1, row.y1].map(Number),
    score: number(row.score),
    points: names.map((name) => ({
      x: number(row[`${name}_x`]),
      y: number(row[`${name}_y`]),
      confidence: number(row[`${name}_confidence`]),
    })),
  };
}

/** The REST service that this page comes from. */
export class Service {
  /** @param {(wrong: boolean) => Promise<string|null>} askToken asks the user for the service's token */
  constructor(askToken) {
    this.askToken = askToken;
    this.names = [];
    this.token = sessionStorage.getItem('token') ?? '';
  }

  get headers() {
    return this.token ? { Authorization: `Bearer ${this.token}` } : {};
  }

  /** Whether the service runs. */
  async alive() {
    const reply = await fetch('healthz', { cache: 'no-store' }).catch(() => null);
    return Boolean(reply?.ok);
  }

  async #broken() {
    return (await this.alive())
      ? new Problem('The connection to the service broke off.')
      : new Problem('The service does not answer.', 'away');
  }

  /** The JSON of a reply. With `options.signal` aborted nothing more is sent. */
  async request(path, options = {}) {
    for (let tries = 0; ; tries += 1) {
      let reply;
      const sent = this.token;
      try {
        reply = await fetch(path, { ...options, headers: this.headers });
        if (reply.ok) return await reply.json();
      } catch {
        throw await this.#broken();
      }
      if ([502, 504].includes(reply.status)) throw await this.#broken(); // a proxy in front of it
      if (reply.status === 401) {
        if (sent !== this.token) continue; // another request asked for it meanwhile
        const token = await this.askToken(Boolean(sent));
        if (!token) throw new Problem(`The service needs ${sent ? 'another token: this one is wrong' : 'its token'}.`, 'token');
        this.token = token;
        sessionStorage.setItem('token', token);
        continue;
      }
      if (reply.status === 503 && tries < 5) {
        await wait(1000 * Math.min(10, Number(reply.headers.get('Retry-After')) || 1));
        continue;
      }
      let about = {};
      try {
        about = await reply.json();
      } catch {
        // A proxy's answer may not be JSON; then the status is shown.
      }
      const text = [about.title, about.detail].filter(Boolean).join(': ');
      throw new Problem(text || `The service answered ${reply.status}.`);
    }
  }

  /**
   * Labels as those of another format: {files: {path: text}, schema, read, lost}; the last two are sentences.
   * @param images the [width, height] of images by name
   * @param schema the content of a schema's file, or null
   */
  convert(files, to, images, schema) {
    const body = new FormData();
    for (const file of files) body.append('files', file, file.webkitRelativePath || file.name);
    body.append('images', JSON.stringify(images));
    if (schema) body.append('schema', JSON.stringify(schema));
    return this.request(`v1/convert?to=${to}`, { method: 'POST', body });
  }

  async start() {
    const { models } = await this.request('v1/models');
    const model = models.find(({ name }) => name === 'default') ?? models[0];
    this.model = model.name;
    this.effort = model.effort; // where the page chooses none
    this.names = model.schema.keypoint_names;
    return { schema: model.schema, styles: model.styles.filter(Boolean) };
  }

  async predict({ file, name, boxes, crops, style, minScore, effort, signal }) {
    const body = new FormData();
    body.append('files', file, name);
    if (boxes) body.append('boxes', JSON.stringify(boxes));
    const query = new URLSearchParams();
    if (style) query.set('style', style);
    if (crops && !boxes) query.set('crops', 'true');
    if (minScore && !crops && !boxes) query.set('min_score', minScore);
    if (effort && !crops && !boxes) query.set('effort', effort);
    const { images: [image] } = await this.request(`v1/predict?${query}`, { method: 'POST', body, signal });
    if (image.problem) throw new Problem(image.problem.detail || image.problem.title);
    const { width, height, faces, warnings, smallest_face: smallest = null } = image;
    return { width, height, warnings, smallest, faces: faces.map((row) => faceOfRow(row, this.names)) };
  }
}

/** The same models in this browser, with ONNX Runtime Web. Images are not sent anywhere. */
export class Browser {
  constructor(service) {
    this.service = service;
    this.waiting = new Map();
    this.next = 0;
  }

  /** Why this browser cannot compute: a text, or null if it can. */
  static async missing() {
    const reply = await fetch('ort/ort.wasm.min.mjs', { method: 'HEAD' }).catch(() => null);
    if (!reply) throw new Problem('The service does not answer.', 'away');
    return reply.ok ? null
      : 'The service was started without ONNX Runtime Web: unpack the npm package onnxruntime-web and start ' +
        '“facial-keypoints serve --ort-web package/dist”.';
  }

  post(job, value, transfer = []) {
    return new Promise((resolve, reject) => {
      this.next += 1;
      this.waiting.set(this.next, { resolve, reject });
      this.worker.postMessage({ id: this.next, job, value }, transfer);
    });
  }

  async start() {
    const missing = await Browser.missing();
    if (missing) throw new Problem(missing);
    await this.service.start(); // the model's name, and whether the token is right
    this.worker ??= this.#worker();
    const at = (path) => new URL(path, document.baseURI).href;
    const models = {
      model: at(`v1/models/${encodeURIComponent(this.service.model)}.onnx`), detector: at('v1/models/face_detector.onnx'),
    };
    try {
      return await this.post('start', { runtime: at('ort/'), files: models, headers: this.service.headers });
    } catch (error) {
      this.worker?.terminate(); // a module that was not loaded would stay so
      this.worker = null;
      throw error;
    }
  }

  #worker() {
    const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
    worker.addEventListener('message', ({ data: { id, value, problem } }) => {
      const { resolve, reject } = this.waiting.get(id);
      this.waiting.delete(id);
      if (problem) reject(new Problem(`In the browser: ${problem}.`));
      else resolve(value);
    });
    worker.addEventListener('error', (event) => {
      for (const { reject } of this.waiting.values()) reject(new Problem(`In the browser: ${event.message}.`));
      this.waiting.clear();
    });
    return worker;
  }

  async predict({ bitmap, boxes, crops, style, minScore, effort }) {
    const copy = await createImageBitmap(bitmap);
    const choices = { style, minScore, effort: effort ?? this.service.effort };
    return this.post('predict', { bitmap: copy, boxes, crops, ...choices }, [copy]);
  }
}
