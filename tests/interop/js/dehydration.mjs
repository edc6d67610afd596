// SPDX-License-Identifier: Apache-2.0
// What is said while somebody is logged out everywhere is read at the next log-in, through a dehydrated device.
//
//     node dehydration.mjs '{"baseUrl": …, "user": …, "password": …}' '{…}'
//
// Owns the scenario; it prints what each device sees, one JSON object per line, and exits with 0 after the last step.
import { CryptoEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

import { backedUp, bootstrap, gather, logIn, reads, recover } from "./devices.mjs";
import { refused, saw, until } from "./sdk.mjs";

const dehydrated = (client, userId) => async () => {
    const devices = (await client.getCrypto().getUserDeviceInfo([userId])).get(userId);
    return [...(devices?.values() ?? [])].some((device) => device.dehydrated);
};

const [alice, bob] = process.argv.slice(2).map((argument) => JSON.parse(argument));
const [first, bobs] = await Promise.all([logIn(alice, "alice first"), logIn(bob, "bob")]);
await bootstrap(alice, first);
await bootstrap(bob, bobs);
const roomId = await gather(first, bobs);
await bobs.sendTextMessage(roomId, "are you there?");
saw("here", { read: await reads(first, roomId, 1, "the first message") });
saw("supported", { dehydration: await first.getCrypto().isDehydrationSupported() });
await first.getCrypto().startDehydration();
await until(bobs, "the dehydrated device", dehydrated(bobs, first.getUserId()), [CryptoEvent.DevicesUpdated]);
await backedUp(first);
first.stopClient();
await first.logout(true);

await bobs.sendTextMessage(roomId, "you were gone");
const again = await logIn(alice, "alice again");
saw("recovered", await recover(again));
const found = {};
again.on(CryptoEvent.RehydrationCompleted, () => (found.completed = true));
again.on(CryptoEvent.RehydrationProgress, (keys, messages) => Object.assign(found, { keys, messages }));
again.on(CryptoEvent.RehydrationError, (error) => (found.error = error));
await again.getCrypto().startDehydration();
saw("back", { found, read: await reads(again, roomId, 2, "what was said meanwhile") });
saw("refused", { requests: [...refused].sort() });
process.exit(0); // the SDK leaves timers behind that would keep the process alive
