// SPDX-License-Identifier: Apache-2.0
// A conversation of two accounts through matrix-js-sdk.
//
//     node client.mjs http://127.0.0.1:8008 alice bob
//
// Owns the scenario; judges nothing but that every request succeeded. It prints one JSON object per line,
// {"step": NAME, …what the client saw…}, and exits with 0 after the last step; `test_js_sdk.py` compares the
// lines with what a server owes.
import { connect, refused, saw, until } from "./sdk.mjs";

const PASSWORD = "correct horse battery staple";

const bodies = (events) => events.map((event) => event.getContent().body);
const isMessage = (event) => event.getType() === "m.room.message";
const errcode = (promise) => promise.then(() => "none", (error) => error.errcode ?? String(error));

/** Registers through user-interactive authentication, then logs in on a second device; returns its client. */
async function enter(baseUrl, username) {
    const stranger = connect(baseUrl);
    const flows = (await stranger.loginFlows()).flows.map((flow) => flow.type);
    const free = await stranger.isUsernameAvailable(username);
    const request = { username, password: PASSWORD };
    const challenge = await stranger.registerRequest(request).catch((error) => error);
    const stages = challenge.data.flows.map((flow) => flow.stages);
    const auth = { type: "m.login.dummy", session: challenge.data.session };
    const first = await stranger.registerRequest({ ...request, auth });
    const identifier = { type: "m.id.user", user: username };
    const wrong = { type: "m.login.password", identifier, password: "wrong" };
    const made = await stranger.loginRequest({ ...wrong, password: PASSWORD, initial_device_display_name: "second" });
    saw("entered", {
        user_id: made.user_id,
        available: [free, await stranger.isUsernameAvailable(username)],
        password_login: flows.includes("m.login.password"),
        challenge: challenge.httpStatus,
        dummy_offered: stages.some((flow) => flow.length === 1 && flow[0] === "m.login.dummy"),
        new_device: made.device_id !== first.device_id,
        wrong_password: await errcode(stranger.loginRequest(wrong)),
    });
    return connect(baseUrl, { userId: made.user_id, accessToken: made.access_token, deviceId: made.device_id });
}

/** Starts the sync loop as Element does and waits for the first whole sync. */
async function start(client, initialSyncLimit = 20) {
    await client.startClient({ initialSyncLimit, lazyLoadMembers: true, threadSupport: true, pollTimeout: 30_000 });
    await until(client, "the first sync", () => client.isInitialSyncComplete());
}

/** Alice makes a private room and invites Bob, who joins. */
async function gather(alice, bob) {
    // These clients have no crypto, without which the SDK sends nothing into an encrypted room.
    const initial_state = [{ type: "m.room.encryption", state_key: "", content: {} }];
    const wishes = { name: "Ship", topic: "Lares", preset: "private_chat", initial_state };
    const { room_id } = await alice.createRoom(wishes);
    const uninvited = await errcode(bob.joinRoom(room_id));
    await alice.invite(room_id, bob.getUserId());
    const invitation = await until(bob, "the invitation", () => {
        const room = bob.getRoom(room_id);
        return room?.getMyMembership() === "invite" && room;
    });
    const invite = invitation.getMember(bob.getUserId()).events.member;
    saw("invited", { by: invite.getSender(), name: invitation.name, uninvited });
    await bob.joinRoom(room_id);
    await until(bob, "his join", () => bob.getRoom(room_id)?.getMyMembership() === "join");
    await until(alice, "Bob's join", () => alice.getRoom(room_id)?.getMember(bob.getUserId())?.membership === "join");
    const room = await until(bob, "the room's name", () => {
        const joined = bob.getRoom(room_id);
        return joined.name === "Ship" && joined;
    });
    const topic = room.currentState.getStateEvents("m.room.topic", "").getContent().topic;
    saw("joined", { name: room.name, topic, members: room.getJoinedMemberCount(), version: room.getVersion() });
    return room_id;
}

/** Alice sends ten messages while Bob's long-poll is open. */
async function talk(alice, bob, roomId) {
    const sent = [];
    for (let number = 0; number < 10; number++) {
        const content = { msgtype: "m.text", body: `message ${number}` };
        sent.push((await alice.sendMessage(roomId, content)).event_id);
    }
    const live = () => bob.getRoom(roomId).getLiveTimeline().getEvents().filter(isMessage);
    await until(bob, "ten messages", () => live().length >= 10);
    const echoes = () => alice.getRoom(roomId).getLiveTimeline().getEvents().filter(isMessage);
    const settled = () => echoes().length >= 10 && echoes().every((event) => event.status === null);
    await until(alice, "the echoes", settled);
    saw("received", {
        bodies: bodies(live()),
        same_ids: live().every((event, index) => event.getId() === sent[index]),
        echoes: bodies(echoes()),
    });
    return sent;
}

/** A fresh client of Bob's with a short timeline and lazy members pages back to the room's creation. */
async function lookBack(baseUrl, bob, roomId, sent) {
    const credentials = { userId: bob.getUserId(), accessToken: bob.getAccessToken(), deviceId: bob.getDeviceId() };
    const fresh = connect(baseUrl, credentials);
    await start(fresh, 3);
    const room = fresh.getRoom(roomId);
    const timeline = room.getLiveTimeline();
    const shown = bodies(timeline.getEvents().filter(isMessage));
    let pages = 0;
    while (await fresh.paginateEventTimeline(timeline, { backwards: true, limit: 4 })) pages++;
    await room.loadMembersIfNeeded();
    const around = await fresh.getEventTimeline(room.getUnfilteredTimelineSet(), sent[4]);
    saw("backwards", {
        shown,
        bodies: bodies(timeline.getEvents().filter(isMessage)),
        first: timeline.getEvents()[0].getType(),
        several_pages: pages > 2,
        members: room.getJoinedMembers().map((member) => member.userId).sort(),
        found: bodies(around.getEvents().filter((event) => event.getId() === sent[4])),
    });
    fresh.stopClient();
}

/** Alice redacts a message; Bob sees it go, live and when he asks for the event. */
async function redact(alice, bob, roomId, eventId) {
    await alice.redactEvent(roomId, eventId, undefined, { reason: "typo" });
    const room = bob.getRoom(roomId);
    const event = room.findEventById(eventId);
    await until(bob, "the redaction", () => event.isRedacted());
    const fetched = await bob.fetchRoomEvent(roomId, eventId);
    saw("redacted", {
        live: event.getContent(),
        reason: event.getRedactionEvent()?.content?.reason,
        fetched: fetched.content,
        because: fetched.unsigned?.redacted_because?.type,
    });
}

/** Typing on and off, and a read receipt, each seen by the other. */
async function signal(alice, bob, roomId, eventId) {
    const typing = () => bob.getRoom(roomId).getMember(alice.getUserId())?.typing === true;
    await alice.sendTyping(roomId, true, 60_000);
    await until(bob, "typing", typing);
    await alice.sendTyping(roomId, false, 0);
    await until(bob, "the end of typing", () => !typing());
    const event = bob.getRoom(roomId).findEventById(eventId);
    await bob.sendReadReceipt(event);
    await bob.setRoomReadMarkers(roomId, eventId);
    const room = alice.getRoom(roomId);
    const receipts = () => room.getReceiptsForEvent(room.findEventById(eventId));
    const receipt = () => receipts().find((each) => each.userId === bob.getUserId());
    const seen = await until(alice, "the receipt", receipt);
    const marker = () => bob.getRoom(roomId).getAccountData("m.fully_read")?.getContent().event_id === eventId;
    await until(bob, "the marker", marker);
    saw("signalled", { typing: true, receipt: seen.type, thread: seen.data.thread_id });
}

/** A display name that reaches the room, and state set and read. */
async function change(alice, bob, roomId) {
    await alice.setDisplayName("Alice the First");
    const member = () => bob.getRoom(roomId).getMember(alice.getUserId());
    await until(bob, "the name", () => member()?.rawDisplayName === "Alice the First");
    await alice.sendStateEvent(roomId, "m.room.topic", { topic: "Penates" }, "");
    const topic = () => bob.getRoom(roomId).currentState.getStateEvents("m.room.topic", "").getContent().topic;
    await until(bob, "the topic", () => topic() === "Penates");
    const state = await bob.roomState(roomId);
    saw("changed", {
        in_room: member().name,
        profile: (await bob.getProfileInfo(alice.getUserId())).displayname,
        topic: topic(),
        types: [...new Set(state.map((event) => event.type))].sort(),
        name: await bob.getStateEvent(roomId, "m.room.name", ""),
        without_power: await errcode(bob.setRoomName(roomId, "Mine")),
    });
}

/** Bob leaves; both log out and their tokens are dead. */
async function part(baseUrl, alice, bob, roomId) {
    await bob.leave(roomId);
    const membership = () => alice.getRoom(roomId).getMember(bob.getUserId()).membership;
    await until(alice, "the leave", () => membership() === "leave");
    await until(bob, "his own leave", () => bob.getRoom(roomId)?.getMyMembership() === "leave");
    const send = await errcode(bob.sendTextMessage(roomId, "still here?"));
    await bob.forget(roomId);
    const tokens = [alice.getAccessToken(), bob.getAccessToken()];
    await Promise.all([alice.logout(true), bob.logout(true)]);
    const after = tokens.map((accessToken) => errcode(connect(baseUrl, { accessToken }).whoami()));
    saw("parted", { membership: membership(), send, tokens: await Promise.all(after) });
}

const [baseUrl, first, second] = process.argv.slice(2);
const alice = await enter(baseUrl, first);
const bob = await enter(baseUrl, second);
await Promise.all([start(alice), start(bob)]);
const roomId = await gather(alice, bob);
const sent = await talk(alice, bob, roomId);
await lookBack(baseUrl, bob, roomId, sent);
await redact(alice, bob, roomId, sent[3]);
await signal(alice, bob, roomId, sent.at(-1));
await change(alice, bob, roomId);
await part(baseUrl, alice, bob, roomId);
saw("refused", { requests: [...refused].sort() });
process.exit(0); // the SDK leaves timers behind that would keep the process alive
