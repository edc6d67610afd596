// SPDX-License-Identifier: Apache-2.0
// What the scenarios share: clients of matrix-js-sdk whose requests are watched, and waiting for what they see.
// The SDK's own log goes to standard error; standard output is the record, one JSON object per line.
import * as sdk from "matrix-js-sdk";

export const PATIENCE = 120_000;

for (const level of ["trace", "debug", "log", "info", "warn"]) console[level] = (...what) => console.error(...what);

/** Prints one line of the record. */
export const saw = (step, what) => process.stdout.write(JSON.stringify({ step, ...what }) + "\n");

// As tests/delays has the servers read late: this share of the requests leaves late, in whichever order.
const { random } = Math; // devices.mjs gives the SDK one of its own
const share = Number(process.env.LARES_TEST_DELAYS ?? 0);
async function late() {
    if (random() >= share) return;
    const pause = random() < 0.1 ? 100 + 400 * random() : -8 * Math.log(1 - random());
    await new Promise((resolve) => setTimeout(resolve, pause));
}

/** Requests that a server with these features should not answer so, for the last line of the record. */
export const refused = new Set();
async function watchedFetch(resource, options) {
    await late();
    const response = await fetch(resource, options);
    if (response.status === 404 || response.status === 405 || response.status >= 500) {
        refused.add(`${response.status} ${options?.method ?? "GET"} ${new URL(resource).pathname}`);
    }
    return response;
}

// What a device says to others goes one after the other. The SDK sends its `m.key.verification.done` without waiting for
// the answer to its `.mac`: over two connections they may arrive in either order, and then the other side, which has no
// use for a `done` before the `mac`, waits for one until its time is up.
function inTurn() {
    let last = Promise.resolve();
    return (resource, options) => {
        if (options?.method !== "PUT" || !/\/send(ToDevice)?\//.test(new URL(resource).pathname)) {
            return watchedFetch(resource, options);
        }
        const answer = last.then(() => watchedFetch(resource, options));
        last = answer.catch(() => {});
        return answer;
    };
}

export const connect = (baseUrl, options = {}) =>
    sdk.createClient({ baseUrl, fetchFn: inTurn(), timelineSupport: true, ...options });

/** Resolves with the first truthy `look()` (which may be asynchronous), tried now and after each of the signals. */
export function until(client, what, look, signals = [sdk.ClientEvent.Sync, sdk.RoomEvent.LocalEchoUpdated]) {
    return new Promise((resolve, reject) => {
        const finish = (settle, value) => {
            clearTimeout(timer);
            signals.forEach((signal) => client.off(signal, attempt));
            settle(value);
        };
        const attempt = async () => {
            try {
                const found = await look();
                if (found) finish(resolve, found);
            } catch (error) {
                finish(reject, error);
            }
        };
        const timer = setTimeout(() => finish(reject, new Error(`waited in vain for ${what}`)), PATIENCE);
        signals.forEach((signal) => client.on(signal, attempt));
        attempt();
    });
}
