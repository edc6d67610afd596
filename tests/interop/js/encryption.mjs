// SPDX-License-Identifier: Apache-2.0
// Two accounts with two devices each talk in an encrypted room.
//
//     node encryption.mjs '{"baseUrl": …, "user": …, "password": …}' '{…}'
//
// The accounts exist, on one server or on two. Owns the scenario; it prints what each device sees, one JSON object per
// line, and exits with 0 after the last step.
import {
    backedUp,
    bootstrap,
    gather,
    isForgotten,
    logIn,
    recover,
    say,
    verifyEachOther,
    verifyOwn,
} from "./devices.mjs";
import { refused, saw } from "./sdk.mjs";

const [alice, bob] = process.argv.slice(2).map((argument) => JSON.parse(argument));
const [aliceFirst, bobFirst] = await Promise.all([logIn(alice, "alice first"), logIn(bob, "bob first")]);
await bootstrap(alice, aliceFirst);
await bootstrap(bob, bobFirst);
const roomId = await gather(aliceFirst, bobFirst);
const said = [];
const devices = { "alice first": aliceFirst, "bob first": bobFirst };
const speak = (step, client, ...texts) => say(step, client, roomId, texts, said, devices);
await speak("a question", aliceFirst, "hello", "is anybody there?");
await speak("an answer", bobFirst, "hello yourself");
await verifyEachOther(aliceFirst, bobFirst, roomId);

await backedUp(bobFirst);
const bobSecond = (devices["bob second"] = await logIn(bob, "bob second"));
await verifyOwn(bobFirst, bobSecond);
await speak("to a second device", aliceFirst, "how many are you?");
await speak("from a second device", bobSecond, "two");

await backedUp(aliceFirst);
const aliceSecond = (devices["alice second"] = await logIn(alice, "alice second"));
saw("recovered", await recover(aliceSecond));
await speak("from a late device", aliceSecond, "now I have read it all");

const gone = aliceFirst.getDeviceId();
await backedUp(aliceSecond);
delete devices["alice first"];
aliceFirst.stopClient();
await aliceFirst.logout(true);
await Promise.all([bobFirst, bobSecond].map((device) => isForgotten(device, aliceSecond.getUserId(), gone)));
await speak("without the first device", bobFirst, "one of you has left");
await backedUp(aliceSecond);
const aliceAgain = (devices["alice again"] = await logIn(alice, "alice again"));
saw("recovered", await recover(aliceAgain));
await speak("logged in again", aliceAgain, "here I am again");
await speak("to all", bobSecond, "welcome back");
saw("refused", { requests: [...refused].sort() });
process.exit(0); // the SDK leaves timers behind that would keep the process alive
