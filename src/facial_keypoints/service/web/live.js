// The camera: one frame after the other, each shown with its own points, so that they do not lag behind the face.

const LONGEST_SIDE = 640; // of a frame; a face in front of a camera is large enough then

/** The cameras of this device; their names are known only after one was allowed. */
export async function camerasHere() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  return devices.filter(({ kind }) => kind === 'videoinput');
}

/**
 * Start a camera.
 * @param device the id of the camera; without it the one that faces the user
 * @param ask (frame) => answer; shown (frame, answer, framesPerSecond); failed (error)
 * @returns {stop(), device, rear}: its id, and whether it faces away from the user
 */
export async function startCamera(video, device, { ask, shown, failed }) {
  const stream = await navigator.mediaDevices.getUserMedia({
    video: {
      ...(device ? { deviceId: { exact: device } } : { facingMode: 'user' }), width: { ideal: 640 }, height: { ideal: 480 },
    },
    audio: false,
  });
  video.srcObject = stream;
  await video.play();
  let running = true;
  let rate = 0;
  const stop = () => {
    running = false;
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
  };

  const loop = async () => {
    try {
      while (running) {
        const begun = performance.now();
        const scale = Math.min(1, LONGEST_SIDE / Math.max(video.videoWidth, video.videoHeight));
        const [width, height] = [video.videoWidth, video.videoHeight].map((n) => Math.max(1, Math.round(n * scale)));
        const canvas = new OffscreenCanvas(width, height);
        canvas.getContext('2d').drawImage(video, 0, 0, width, height);
        const file = await canvas.convertToBlob({ type: 'image/jpeg', quality: 0.9 });
        const frame = { file, name: 'camera.jpg', bitmap: canvas.transferToImageBitmap(), time: begun / 1000 };
        const answer = await ask(frame);
        // Not faster than the screen, or the same frame would be predicted twice.
        await new Promise((done) => { requestAnimationFrame(done); });
        const seconds = (performance.now() - begun) / 1000;
        rate = rate ? 0.8 * rate + 0.2 / seconds : 1 / seconds;
        if (running && answer) shown(frame, answer, rate); // null: another engine starts
      }
    } catch (error) {
      if (running) failed(error);
      stop();
    }
  };
  loop();
  const { deviceId, facingMode } = stream.getVideoTracks()[0].getSettings();
  return { stop, device: deviceId, rear: facingMode === 'environment' };
}
