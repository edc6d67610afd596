// SPDX-License-Identifier: Apache-2.0
// Who is invited to an encrypted room reads what was said there before, by a bundle of keys (MSC4268).
//
//     node history.mjs '{"baseUrl": …, "user": …, "password": …}' '{…}'
//
// Owns the scenario; it prints what is seen, one JSON object per line, and exits with 0 after the last step.
import { backedUp, bootstrap, knowsAll, logIn, reads } from "./devices.mjs";
import { refused, saw, until } from "./sdk.mjs";

const [alice, bob] = process.argv.slice(2).map((argument) => JSON.parse(argument));
const [aliceFirst, bobFirst] = await Promise.all([logIn(alice, "alice first"), logIn(bob, "bob")]);
await bootstrap(alice, aliceFirst);
await bootstrap(bob, bobFirst);
const content = { algorithm: "m.megolm.v1.aes-sha2" };
const initial_state = [{ type: "m.room.encryption", state_key: "", content }];
const { room_id: roomId } = await aliceFirst.createRoom({ preset: "private_chat", initial_state });
await until(aliceFirst, "encryption", () => aliceFirst.getCrypto().isEncryptionEnabledInRoom(roomId));
for (const text of ["I am alone", "and talk to myself"]) await aliceFirst.sendTextMessage(roomId, text);
await reads(aliceFirst, roomId, 2, "her own words");
await backedUp(aliceFirst);

await aliceFirst.invite(roomId, bobFirst.getUserId());
await until(bobFirst, "the invitation", () => bobFirst.getRoom(roomId)?.getMyMembership() === "invite");
await bobFirst.joinRoom(roomId);
const room = bobFirst.getRoom(roomId);
const hasCome = (event) => event.getType() === "m.room.member" && event.getContent().membership === "join";
await until(bobFirst, "his own join", () => room.getLiveTimeline().getEvents().some(hasCome));
await bobFirst.scrollback(room, 50);
saw("before", { texts: await reads(bobFirst, roomId, 2, "what was said before he came") });
await until(aliceFirst, "Bob", () => aliceFirst.getRoom(roomId)?.getMember(bobFirst.getUserId())?.membership === "join");
for (const client of [aliceFirst, bobFirst]) await knowsAll(client, [aliceFirst, bobFirst]);
await bobFirst.sendTextMessage(roomId, "not any more");
await aliceFirst.sendTextMessage(roomId, "welcome");
for (const client of [aliceFirst, bobFirst]) saw("after", { texts: (await reads(client, roomId, 4, "all")).sort() });
saw("refused", { requests: [...refused].sort() });
process.exit(0); // the SDK leaves timers behind that would keep the process alive
