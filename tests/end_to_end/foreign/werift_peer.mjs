// One side of a call made by werift: what signaled.py says comes in as lines of JSON, what it is to say goes out.

import { createInterface } from "node:readline";
import { RTCPeerConnection } from "werift";

const MESSAGES = 20;

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

const typeOf = (candidate) => / typ (\S+)/.exec(candidate.candidate)[1];

let connection;
let received = 0;

// The caller's messages come back to it one by one.
const converse = (channel, echo) => {
  channel.onmessage = ({ data }) => {
    received += 1;
    if (echo) channel.send(data);
    if (received !== MESSAGES) return;
    const pair = connection.iceTransports[0].getSelectedCandidatePair();
    say({ talked: { local: typeOf(pair.local), remote: typeOf(pair.remote) } });
  };
};

const start = (configuration) => {
  connection = new RTCPeerConnection(configuration);
  connection.onicecandidate = ({ candidate }) => {
    if (candidate) say({ candidate: candidate.toJSON() });
  };
  connection.ondatachannel = ({ channel }) => converse(channel, true);
};

const hear = async ({ call, offer, answer, candidate }) => {
  if (call) {
    const channel = connection.createDataChannel("talk");
    converse(channel, false);
    channel.onopen = () => {
      for (let number = 0; number < MESSAGES; number += 1) channel.send(`message ${number}`);
    };
    await connection.setLocalDescription(await connection.createOffer());
    say({ offer: connection.localDescription.sdp });
  } else if (offer) {
    await connection.setRemoteDescription({ type: "offer", sdp: offer });
    await connection.setLocalDescription(await connection.createAnswer());
    say({ answer: connection.localDescription.sdp });
  } else if (answer) {
    await connection.setRemoteDescription({ type: "answer", sdp: answer });
  } else if (candidate) {
    await connection.addIceCandidate(candidate);
  }
};

for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line);
  if (connection === undefined) start(message);
  else await hear(message);
}
await connection.close();
process.exit(0);
