// The metadata of an ONNX file. ONNX Runtime Web gives no access to them, but the file is a plain
// protobuf: ModelProto.metadata_props is field 14, each entry a key (1) and a value (2).

function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let power = 1; ; power *= 128) {
      const byte = bytes[at];
      at += 1;
      value += (byte & 127) * power;
      if (!(byte & 128)) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const kind = key & 7;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      yield [Math.floor(key / 8), bytes.subarray(at, at + length)];
      at += length;
    } else throw new Error('this is not an ONNX file');
  }
}

/** The metadata of a model as an object of texts. */
export function metadataOf(buffer) {
  const text = new TextDecoder();
  const found = {};
  for (const [number, value] of fields(new Uint8Array(buffer))) {
    if (number === 14) {
      const entry = Object.fromEntries(fields(value));
      found[text.decode(entry[1])] = text.decode(entry[2] ?? new Uint8Array());
    }
  }
  return found;
}
