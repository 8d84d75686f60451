/** Every word that the page says. */

/** @typedef {import("./link.js").Trouble} Trouble */
/** @typedef {import("./state.js").State["microphone"]} MicrophoneState */

/** @type {Record<Trouble, string>} */
const pairTroubles = {
  forged: "What came in their name was not signed by their key: somebody on the way may want to listen in.",
  "unsigned-now": "Their key always signed before, and does not now: this may be somebody else.",
  "no-relay-named": "No direct path was found, and the server offered no relay.",
  "relay-silent": "No direct path was found, and the server’s relay did not answer: its TURN port may be closed.",
  "no-answer": "The other side did not answer.",
  "no-path": "No path for sound was found, neither direct nor through the server’s relay.",
};

/** @type {Record<NonNullable<MicrophoneState>, {title: string, text: string}>} */
const microphoneTroubles = {
  refused: {
    title: "The microphone was refused",
    text: "Allow it for this page in the browser’s address bar or settings, then try again.",
  },
  absent: { title: "No microphone was found", text: "Plug one in or switch it on, then try again." },
  busy: {
    title: "The microphone would not start",
    text: "Another program may be using it. Close that one, then try again.",
  },
  broken: { title: "The microphone would not start", text: "The browser gave no reason. Trying again may help." },
  lost: { title: "The microphone went away", text: "The others cannot hear you until there is one again." },
  insecure: {
    title: "No microphone on this address",
    text: "Browsers give a microphone only to pages that came over https.",
  },
};

/** @type {Record<string, string>} */
const serverErrors = {
  "Tavern not found": "This tavern does not exist on this server.",
  "Channel not found": "This channel does not exist any more.",
  "This tavern is locked: only its members enter, and who has an invite":
    "This tavern is locked: ask its owner for an invitation.",
  "Channel full": "This channel is full: eight people fit in.",
  "rate-limited": "The server asked this page to slow down. Try again in a moment.",
};

export const strings = {
  appName: "Tavern",
  tagline: "A voice room of your own.",
  toFrontPage: "Tavern, to the front page",
  you: "You",
  dismiss: "Close",

  home: {
    title: "Pull up a chair.",
    lead: "Make a tavern, send its link to your friends, and talk. No account, nothing to install.",
    createTitle: "Open a tavern",
    createLabel: "Its name",
    createPlaceholder: "Friday night",
    create: "Create",
    creating: "Creating…",
    openTitle: "Go to one",
    openLabel: "Invite link or id",
    openPlaceholder: "https://…/join/…",
    open: "Open",
    notALink: "That is not an invite link: it ends in /join/ and an id.",
    visited: "Visited before",
    forget: (/** @type {string} */ name) => `Forget ${name}`,
  },

  tavern: {
    loading: "Looking for the tavern…",
    missingTitle: "There is no such tavern here",
    missing: "The link may be incomplete, from another server, or the tavern is gone.",
    toHome: "To the front page",
    nameLabel: "Your name",
    namePlaceholder: "What others call you",
    invited: "One press and you are talking.",
    join: "Join",
    joinChannel: (/** @type {string} */ name) => `Join ${name}`,
    switchTo: (/** @type {string} */ name) => `Switch to ${name}`,
    joining: "Joining…",
    asking: "Asking for the microphone…",
    cancel: "Cancel",
    full: "Full",
    channels: "Channels",
    empty: "Nobody here yet",
    people: (/** @type {number} */ count) => (count === 1 ? "1 person" : `${count} people`),
    renameChannel: "Rename",
    deleteChannel: "Delete",
    newName: "The channel’s new name",
    confirmDeleteChannel: "Delete this channel for everybody?",
    newChannel: "Add channel",
    newChannelLabel: "Name of the new channel",
    newChannelPlaceholder: "A new channel",
    add: "Add",
    inviteTitle: "Invite",
    inviteLabel: "Invite link",
    copy: "Copy link",
    qr: "The invite link as a QR code",
    showQr: "QR code",
    copied: "Copied: send it to whom you want to hear.",
    copyFailed: "The browser would not copy: the link is selected, copy it by hand.",
    loopback:
      "This page is open as localhost, so a link to it works on this computer only. To invite others, open it under an address that they can reach, over https: with TAVERN_TLS_CERT and TAVERN_TLS_KEY set, or behind a proxy that speaks https.",
  },

  call: {
    region: "Your call",
    inChannel: (/** @type {string} */ channel) => `In ${channel}`,
    alone: "Only you so far. Send somebody the link.",
    with: (/** @type {number} */ count) => (count === 1 ? "with 1 other" : `with ${count} others`),
    rejoining: "Coming back…",
    mute: "Mute",
    unmute: "Unmute",
    leave: "Leave",
    deafen: "Deafen",
    undeafen: "Hear again",
    hold: "Hold to talk",
    talking: "Talking",
    listening: "Listening only",
    useMicrophone: "Use microphone",
    soundBlocked: "The browser is holding the sound back.",
    unblock: "Turn sound on",
    muted: "muted",
    speaking: "speaking",
  },

  audio: {
    title: "Sound",
    input: "Microphone",
    output: "Loudspeaker",
    system: "The system’s choice",
    unplugged: "The chosen one (not plugged in)",
    noise: "Noise suppression",
    noises: { browser: "The browser’s own", rnnoise: "RNNoise", off: "None" },
    mode: "You are heard",
    modes: { open: "always", gate: "when you are loud enough", push: "while you hold a key" },
    threshold: "Loud enough from here",
    pushKey: "Key to hold:",
    pressKey: "Press a key…",
    hide: "Hide my address",
    hideHere: "Hide my address in this tavern",
    hideHint: "Sound then goes through the server’s relay, and those you talk with do not learn where you are.",
    diagnostics: "Copy diagnostics",
    copied: "Copied.",
    shortcuts: "Keys",
    keys: [
      ["M", "mute and unmute"],
      ["D", "hear nothing, and say nothing"],
    ],
  },

  key: {
    title: "Your key",
    text: "It is who you are here. Keep the file to yourself: whoever has it is you.",
    export: "Save to a file",
    import: "Use one from a file",
    exported: "Saved. Keep it where nobody else looks.",
    none: "This browser has no key that could be saved.",
    wrong: "That is no Tavern key file.",
  },

  theme: {
    label: "Colours",
    names: { system: "As the system", light: "Light", dark: "Dark", retro: "Retro", contrast: "High contrast" },
  },

  manage: {
    title: "Manage",
    owner: "owner",
    moderator: "moderator",
    name: "The tavern’s name",
    rename: "Rename",
    lock: "Locked",
    lockHint: "Only members, moderators and who has an invitation enter a locked tavern.",
    invite: "Make an invitation",
    inviteHint: "The invite link then lets its bearer in, also while the tavern is locked.",
    delete: "Delete this tavern",
    confirmDelete: (/** @type {string} */ name) => `Delete ${name} for everybody? This cannot be undone.`,
    kick: "Put out",
    ban: "Ban",
    confirmBan: "Ban them from this tavern?",
    promote: "Make moderator",
    demote: "No moderator any more",
    handOver: "Hand the tavern over",
    confirmHandOver: "Hand this tavern over to them? You stay a moderator.",
    channelGone: "The channel was deleted.",
    tavernGone: "The tavern was deleted.",
    putOut: (/** @type {boolean} */ banned, /** @type {string} */ reason) =>
      `${banned ? "You were banned from this tavern." : "You were put out of the channel."}${reason ? ` ${reason}` : ""}`,
  },

  text: {
    title: "Text",
    label: "Write to those in the channel",
    placeholder: "Write to those in the channel",
    send: "Send",
    empty: "What is written here goes from browser to browser, and is gone when you leave.",
    unread: (/** @type {number} */ count) => `${count} new`,
    blind: (/** @type {string[]} */ names) => `${names.join(", ")} will not see it: no such channel to them.`,
  },

  peer: {
    volume: (/** @type {string} */ name) => `How loud ${name} is`,
    connecting: "connecting…",
    connected: "connected",
    retrying: "trying again…",
    failed: "no connection",
    retry: "Try again",
    stats: (/** @type {import("./pair-stats.js").PairStats} */ { path, protocol, roundTripMs, lossPercent, codec }) =>
      [
        path === "direct" ? "direct" : "through the relay",
        protocol.toUpperCase(),
        roundTripMs === null ? "" : `${roundTripMs} ms there and back`,
        lossPercent === null ? "" : `${lossPercent.toFixed(lossPercent < 10 ? 1 : 0)} % lost`,
        codec,
      ]
        .filter(Boolean)
        .join(" · "),
    connectionFailed: (/** @type {string} */ name, /** @type {Trouble | null} */ trouble) =>
      `The connection with ${name} failed. ${trouble ? pairTroubles[trouble] : ""}`.trim(),
  },

  trust: {
    verified: "verified",
    unsigned: "not verified",
    other: "another key",
    text: {
      verified: "The sound is encrypted for this key alone: not even the server can listen in.",
      unsigned: "Their client cannot sign, so that whoever runs the server could listen in.",
    },
    otherBefore: (/** @type {string} */ name) => `Somebody else was ${name} here before.`,
    confirmName: "I know it is them",
    safety: "Read these numbers to each other. If they are the same, nobody is in between:",
  },

  microphone: {
    trouble: (/** @type {NonNullable<MicrophoneState>} */ kind) => microphoneTroubles[kind],
    again: "Try again",
    listen: "Just listen",
  },

  insecure: {
    title: "You can look, but not talk, on this address",
    text: "Browsers give a microphone, and a place to keep a key, only to pages that came over https, or from this very computer as localhost.",
    mendTitle: "How to mend it",
    mend: (/** @type {string} */ here) => [
      "Start the server with TAVERN_TLS_CERT and TAVERN_TLS_KEY, and open the page over https.",
      "Or put a proxy that speaks https in front of it (nginx, Caddy).",
      `Or, on the computer where the server runs, open it as ${here}`,
    ],
  },

  replaced: {
    title: "You are in from another tab or window.",
    text: "One identity can be in one place at a time. The other page has it now.",
    useHere: "Use here",
  },

  connection: {
    connecting: "Connecting to the server…",
    lost: "The connection to the server is gone. It is being tried again.",
    lostInCall: "The connection to the server is gone. It is being tried again, and then you are back in the channel.",
    now: "Try now",
  },

  noWebRtc:
    "This browser has no WebRTC, which is what carries the voices. It may be switched off in the settings or by an extension; otherwise try another browser.",

  notKept: "This browser keeps nothing between visits: you will be somebody new next time.",

  errors: {
    notConnected: "There is no connection to the server yet. It is being tried; press again in a moment.",
  },

  /**
   * @param {string} message the server's own words
   * @param {string} code
   * @returns {string}
   */
  serverError: (message, code) =>
    serverErrors[message] ?? `The server said: ${message || code || "something went wrong"}.`,
};
