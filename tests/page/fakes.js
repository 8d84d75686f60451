/** Stand-ins for what a browser gives: a clock that is turned by hand, connections that connect to nothing. */

export class FakeClock {
  time = 0;
  #timers = [];

  now = () => this.time;
  later = (run, ms) => this.#timers.push({ at: this.time + ms, run });

  advance(ms) {
    const end = this.time + ms;
    for (;;) {
      const next = this.#timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.#timers.splice(this.#timers.indexOf(next), 1);
      this.time = next.at;
      next.run();
    }
    this.time = end;
  }
}

/** As much of an RTCPeerConnection as the mesh touches. */
export class FakeConnection {
  signalingState = "stable";
  connectionState = "new";
  iceGatheringState = "complete";
  localDescription = null;
  remoteDescription = null;
  closed = false;
  candidates = [];
  remote = [];
  transceivers = [];
  stats = {};

  constructor(configuration) {
    this.configuration = configuration;
  }

  addTransceiver(trackOrKind, { direction, streams }) {
    const transceiver = new FakeTransceiver(direction);
    transceiver.streams = streams;
    if (trackOrKind !== "audio") transceiver.sender.track = trackOrKind;
    this.transceivers.push(transceiver);
    return transceiver;
  }

  getTransceivers() {
    return this.transceivers;
  }

  async createOffer({ iceRestart = false } = {}) {
    return { type: "offer", sdp: iceRestart ? "v=0\r\nanother way" : "v=0\r\noffer" };
  }

  async createAnswer() {
    return { type: "answer", sdp: "v=0\r\nanswer" };
  }

  async setLocalDescription(description) {
    this.localDescription = { ...description };
    this.signalingState = description.type === "offer" ? "have-local-offer" : "stable";
  }

  async setRemoteDescription(description) {
    if (description.sdp === "garbage") throw new Error("bad sdp");
    this.remote.push(description);
    this.remoteDescription = description;
    this.signalingState = description.type === "offer" ? "have-remote-offer" : "stable";
    if (description.type === "offer") this.transceivers.push(new FakeTransceiver("recvonly"));
  }

  async addIceCandidate(candidate) {
    if (this.remote.length === 0) throw new Error("no remote description");
    if (candidate.candidate.includes("refused")) throw new Error("unknown ufrag");
    this.candidates.push(candidate);
  }

  setConfiguration(configuration) {
    this.configuration = configuration;
  }

  createDataChannel(label) {
    this.channel = { label, readyState: "connecting", bufferedAmount: 0, sent: [], send: (data) => this.channel.sent.push(data) };
    return this.channel;
  }

  async getStats() {
    return new Map(Object.entries(this.stats));
  }

  close() {
    this.closed = true;
  }

  /** Says what a browser would say. */
  become(state) {
    this.connectionState = state;
    this.onconnectionstatechange?.();
  }

  /** Finds a candidate, which is in the description from then on. */
  find(candidate) {
    if (this.localDescription) this.localDescription.sdp += `\r\na=${candidate}`;
    this.onicecandidate?.({ candidate: { candidate, toJSON: () => ({ candidate, sdpMid: "0" }) } });
  }
}

class FakeTransceiver {
  receiver = { track: { kind: "audio" } };

  constructor(direction) {
    this.direction = direction;
    this.sender = {
      track: null,
      streams: [],
      setStreams: (...streams) => {
        this.sender.streams = streams;
      },
      replaceTrack: async (track) => {
        this.sender.track = track;
      },
    };
  }
}

/** Lets everything that only waits for promises happen. */
export async function settle() {
  for (let turn = 0; turn < 50; turn += 1) await Promise.resolve();
}
