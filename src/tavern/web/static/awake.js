/** A phone stays awake while one talks, where the browser allows it. */

const LOOK_MS = 5_000;

/** @param {() => boolean} wanted */
export function keepAwake(wanted) {
  /** @type {WakeLockSentinel | null} */
  let lock = null;
  setInterval(() => {
    void (async () => {
      try {
        if (wanted() && document.visibilityState === "visible" && (lock === null || lock.released)) {
          lock = (await navigator.wakeLock?.request("screen")) ?? null;
        } else if (!wanted() && lock) {
          await lock.release();
          lock = null;
        }
      } catch {
        // Not allowed, as with a battery that is low: the call goes on.
      }
    })();
  }, LOOK_MS);
}
