// SPDX-License-Identifier: Apache-2.0
// One of those who talk in an encrypted room with other clients.
//
//     node room.mjs '{"baseUrl": …, "user": …, "password": …}' '["@user:…", …]'
//
// Owns its part of the conversation of `mixed_room.py`; it prints what it could read, one JSON object per line.
import { bootstrap, logIn, reads } from "./devices.mjs";
import { refused, saw, until } from "./sdk.mjs";

const [account, everybody] = process.argv.slice(2).map((argument) => JSON.parse(argument));
const client = await logIn(account, "the only one");
await bootstrap(account, client);
const invitation = () => client.getRooms().find((room) => room.getMyMembership() === "invite");
const { roomId } = await until(client, "the invitation", invitation);
await client.joinRoom(roomId);
const joined = async () => {
    const room = client.getRoom(roomId);
    await room.loadMembersIfNeeded();
    return everybody.every((userId) => room.getMember(userId)?.membership === "join");
};
await until(client, "everybody", joined);
await until(client, "encryption", () => client.getCrypto().isEncryptionEnabledInRoom(roomId));
let texts;
for (const [round, text] of ["hello from {}", "{} has heard all"].entries()) {
    await client.sendTextMessage(roomId, text.replace("{}", account.user));
    texts = await reads(client, roomId, everybody.length * (round + 1), text);
}
saw("heard", { texts, problems: [] });
saw("refused", { requests: [...refused].sort() });
process.exit(0); // the SDK leaves timers behind that would keep the process alive
