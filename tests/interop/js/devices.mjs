// SPDX-License-Identifier: Apache-2.0
// Devices of matrix-js-sdk with its crypto in Rust: what they do in the encrypted scenarios, and what they can read.
// Keys live in memory: a device that logs in again is a new one.
import * as sdk from "matrix-js-sdk";
import { CryptoEvent, VerificationPhase, VerificationRequestEvent, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

import { PATIENCE, connect, saw, until } from "./sdk.mjs";

// The SDK backs keys up after up to ten seconds of its own choosing, lest all clients come at once; none are many here.
Math.random = () => 0.001;

const NEWS = [sdk.ClientEvent.Sync, sdk.RoomEvent.LocalEchoUpdated, sdk.MatrixEventEvent.Decrypted];

/** A logged-in device with its crypto. `account.recoveryKey` opens the secret storage, once there is one. */
export async function logIn(account, name) {
    const identifier = { type: "m.id.user", user: account.user };
    const request = { type: "m.login.password", identifier, password: account.password };
    const made = await connect(account.baseUrl).loginRequest({ ...request, initial_device_display_name: name });
    const cryptoCallbacks = {
        getSecretStorageKey: async ({ keys }) => [Object.keys(keys)[0], account.recoveryKey.privateKey],
    };
    const credentials = { userId: made.user_id, accessToken: made.access_token, deviceId: made.device_id };
    const client = connect(account.baseUrl, { ...credentials, cryptoCallbacks, verificationMethods: ["m.sas.v1"] });
    await client.initRustCrypto({ useIndexedDB: false });
    await client.startClient({ initialSyncLimit: 50, lazyLoadMembers: true, threadSupport: true });
    await until(client, `the first sync of ${name}`, () => client.isInitialSyncComplete());
    // The SDK uploads a device's keys by the way, and whatever else it says in between may be there before: a signature of
    // them, which a server has no use for then, and which is never sent again.
    await until(client, `the keys of ${name}`, () => isKnown(client));
    return client;
}

/** Whether the server has the keys of the client's own device. */
async function isKnown(client) {
    const answer = await client.downloadKeysForUsers([client.getUserId()]);
    return answer.device_keys?.[client.getUserId()]?.[client.getDeviceId()];
}

/** The first device of an account makes its identity, its secret storage and its key backup. */
export async function bootstrap(account, client) {
    const crypto = client.getCrypto();
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: (upload) => upload(null) });
    account.recoveryKey = await crypto.createRecoveryKeyFromPassphrase();
    await crypto.bootstrapSecretStorage({
        createSecretStorageKey: async () => account.recoveryKey,
        setupNewSecretStorage: true,
        setupNewKeyBackup: true,
    });
    await until(client, "a backup", () => crypto.getActiveSessionBackupVersion());
    saw("bootstrapped", {
        cross_signing: await crypto.isCrossSigningReady(),
        secret_storage: await crypto.isSecretStorageReady(),
        backup: (await crypto.isKeyBackupTrusted(await crypto.getKeyBackupInfo())).trusted,
    });
}

/** A later device proves itself with the recovery key, and reads the backup. */
export async function recover(client) {
    const crypto = client.getCrypto();
    await crypto.userHasCrossSigningKeys(client.getUserId(), true);
    await crypto.bootstrapCrossSigning({});
    await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
    await crypto.checkKeyBackupAndEnable();
    const restored = await crypto.restoreKeyBackup();
    const status = async () => await crypto.getDeviceVerificationStatus(client.getUserId(), client.getDeviceId());
    await until(client, "the signature of its own", async () => (await status())?.signedByOwner, [...NEWS, CryptoEvent.DevicesUpdated]);
    // A key that came to the device meanwhile, by itself, is not imported a second time.
    const held = (await crypto.exportRoomKeys()).length;
    return { cross_signed: (await status()).signedByOwner, all_restored: held >= restored.total };
}

/** Alice makes a private room and invites Bob, who joins. */
export async function gather(alice, bob) {
    const content = { algorithm: "m.megolm.v1.aes-sha2" };
    const initial_state = [{ type: "m.room.encryption", state_key: "", content }];
    const { room_id } = await alice.createRoom({ preset: "private_chat", initial_state });
    await alice.invite(room_id, bob.getUserId());
    await until(bob, "the invitation", () => bob.getRoom(room_id)?.getMyMembership() === "invite");
    await bob.joinRoom(room_id);
    const joined = () => alice.getRoom(room_id)?.getMember(bob.getUserId())?.membership === "join";
    await until(alice, "Bob's join", joined);
    for (const client of [alice, bob]) {
        await until(client, "encryption", () => client.getCrypto().isEncryptionEnabledInRoom(room_id));
    }
    return room_id;
}

const isVerification = (event) =>
    event.getType().startsWith("m.key.verification.") || event.getContent().msgtype === "m.key.verification.request";
const spoken = (client, roomId) =>
    (client.getRoom(roomId)?.getLiveTimeline().getEvents() ?? [])
        .filter((event) => event.isEncrypted() || event.getType() === "m.room.message")
        .filter((event) => !isVerification(event));

/**
 * What a device can read in the room, once there are `count` messages and it can read all that is there: what a late device
 * finds is opened piece by piece, as keys come, and what is still closed may be no message at all.
 */
export async function reads(client, roomId, count, what) {
    const isClear = (event) => event.isEncrypted() && event.getType() === "m.room.message" && !event.isDecryptionFailure();
    const view = () =>
        spoken(client, roomId).map((event) => {
            if (isClear(event)) return event.getContent().body;
            return event.isEncrypted() ? `${event.decryptionFailureReason}` : `not encrypted: ${event.getType()}`;
        });
    const isRead = (event) => isClear(event) && event.status === null;
    const readsAll = () => {
        const events = spoken(client, roomId);
        return events.length >= count && events.every(isRead);
    };
    await until(client, what, readsAll, NEWS).catch((error) => {
        throw new Error(`${error.message}; it sees ${JSON.stringify(view())}`);
    });
    return view();
}

/** One device says some things, once it knows of all that listen; all devices read all that was ever said. */
export async function say(step, client, roomId, texts, said, devices) {
    await knowsAll(client, Object.values(devices));
    for (const text of texts) await client.sendTextMessage(roomId, text);
    said.push(...texts);
    const views = {};
    for (const [name, device] of Object.entries(devices)) {
        views[name] = await reads(device, roomId, said.length, `${name} to read ${said.at(-1)}`);
    }
    saw(step, { said: [...said], views });
}

function phase(request, wanted) {
    return new Promise((resolve, reject) => {
        const attempt = () => {
            if (request.phase === VerificationPhase.Cancelled) reject(new Error(`cancelled: ${request.cancellationCode}`));
            if (request.phase >= wanted) resolve(request);
        };
        setTimeout(() => reject(new Error(`verification stays in phase ${request.phase}`)), PATIENCE).unref();
        request.on(VerificationRequestEvent.Change, attempt);
        attempt();
    });
}

/** Both devices compare the same short string; `ask` begins it. */
async function verify(ask, asked) {
    const arrives = new Promise((resolve) => asked.once(CryptoEvent.VerificationRequestReceived, resolve));
    const request = await ask();
    const other = await arrives;
    await other.accept();
    await phase(request, VerificationPhase.Ready);
    const shown = [];
    const confirm = (verifier) => {
        verifier.on(VerifierEvent.ShowSas, (sas) => {
            shown.push(sas.sas.decimal.join(" "));
            sas.confirm();
        });
        return verifier.verify();
    };
    const mine = confirm(await request.startVerification("m.sas.v1"));
    await phase(other, VerificationPhase.Started);
    await Promise.all([mine, confirm(other.verifier)]);
    await Promise.all([phase(request, VerificationPhase.Done), phase(other, VerificationPhase.Done)]);
    return shown.length === 2 && shown[0] === shown[1];
}

async function knows(one, other) {
    // Whose devices are not followed yet is asked about before anything is said.
    const found = await one.getCrypto().getUserDeviceInfo([other.getUserId()], true);
    return found.get(other.getUserId())?.has(other.getDeviceId());
}

/** Waits until a device has heard of others: what it says before that is not for them. */
export async function knowsAll(client, others) {
    const signals = [...NEWS, CryptoEvent.DevicesUpdated];
    for (const other of others) {
        if (other === client) continue;
        await until(client, `the device ${other.getDeviceId()}`, () => knows(client, other), signals);
    }
}

/** A second device of Bob's is verified by the first, and is given his secrets by it. */
export async function verifyOwn(first, second) {
    const crypto = second.getCrypto();
    await crypto.userHasCrossSigningKeys(second.getUserId(), true);
    await knowsAll(first, [second]);
    const same = await verify(() => crypto.requestOwnUserVerification(), first);
    const ready = async () => (await crypto.isCrossSigningReady()) && (await crypto.getActiveSessionBackupVersion());
    await until(second, "the secrets", ready, [...NEWS, CryptoEvent.KeysChanged, CryptoEvent.KeyBackupStatus]);
    const signed = async () => {
        const status = await first.getCrypto().getDeviceVerificationStatus(second.getUserId(), second.getDeviceId());
        return status?.signedByOwner;
    };
    await until(first, "the second device's signature", signed, [...NEWS, CryptoEvent.DevicesUpdated]);
    saw("verified a device", { same_string: same });
}

/** Alice and Bob verify each other in the room. */
export async function verifyEachOther(alice, bob, roomId) {
    const same = await verify(() => alice.getCrypto().requestVerificationDM(bob.getUserId(), roomId), bob);
    const signals = [...NEWS, CryptoEvent.UserTrustStatusChanged];
    for (const [one, other] of [[alice, bob], [bob, alice]]) {
        const trusts = async () =>
            (await one.getCrypto().getUserVerificationStatus(other.getUserId())).isCrossSigningVerified();
        await until(one, "trust", trusts, signals);
    }
    saw("verified each other", { same_string: same });
}

/** Waits until no session of this device is missing in its backup. */
export async function backedUp(client) {
    const crypto = client.getCrypto();
    const version = await crypto.getActiveSessionBackupVersion();
    const mine = (await crypto.exportRoomKeys()).length;
    const count = async () => (await client.http.authedRequest("GET", "/room_keys/version")).count;
    const signals = [...NEWS, CryptoEvent.KeyBackupSessionsRemaining];
    await until(client, "the backup", async () => (await count()) >= mine, signals);
    return version;
}

/** Bob's devices are told that a device of Alice's is gone. */
export async function isForgotten(bob, userId, deviceId) {
    const gone = async () => {
        const found = await bob.getCrypto().getUserDeviceInfo([userId]);
        return !found.get(userId).has(deviceId);
    };
    await until(bob, "the end of a device", gone, [...NEWS, CryptoEvent.DevicesUpdated]);
}
