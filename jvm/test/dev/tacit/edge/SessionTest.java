package dev.tacit.edge;

import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.crypto.Identity;
import dev.tacit.edge.noise.Layers;
import dev.tacit.edge.secagg.Directory;
import dev.tacit.edge.secagg.FileVault;
import dev.tacit.edge.secagg.MaskingClient;
import dev.tacit.edge.secagg.Rules;
import dev.tacit.edge.secagg.Vault;
import dev.tacit.edge.secagg.Words;
import dev.tacit.edge.wire.Json;
import dev.tacit.edge.wire.Kind;
import dev.tacit.edge.wire.Message;
import dev.tacit.edge.wire.Statements;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Against session.json: every answer of every client in two sessions, and what is refused. */
final class SessionTest {
  private static final List<Object> SESSIONS =
      Check.list(Check.vectors("session.json"), "sessions");

  private SessionTest() {}

  /** A client of a session in a fresh folder. */
  private static final class One {
    final Map<String, Object> session;
    final Map<String, Object> said;
    final Path folder;
    final Deque<byte[]> draws = new ArrayDeque<>();

    One(Map<String, Object> session, int index) {
      this.session = session;
      said = Json.object(Check.list(session, "clients").get(index));
      try {
        folder = Files.createTempDirectory("tacit-vault");
      } catch (IOException error) {
        throw new AssertionError(error);
      }
      Map<String, Object> given = Check.object(said, "draws");
      for (String name : new String[] {"channel", "mask", "self_seed", "base", "chain", "key"}) {
        draws.add(Check.hex(given, name));
      }
    }

    /** As after a restart: nothing but the folder is kept. */
    MaskingClient client() {
      Map<String, Object> known = Check.object(session, "directory");
      Directory directory =
          number -> {
            Object key = known.get(Long.toString(number));
            return key == null ? null : Bytes.unhex((String) key);
          };
      long number = Check.integer(said.get("client"));
      List<Object> rules = Check.list(session, "rules");
      Rules made =
          new Rules(
              (int) Check.integer(rules.get(0)),
              (int) Check.integer(rules.get(1)),
              Check.real(rules.get(2)),
              (int) Check.integer(rules.get(3)));
      Identity identity = new Identity(Check.hex(said, "seed"), directory.publicKey(number));
      Vault vault = new FileVault(folder);
      return new MaskingClient(number, identity, directory, made, vault, this::draw);
    }

    private byte[] draw(int size) {
      return draws.isEmpty() ? Crypto.random(size) : draws.remove();
    }

    Map<String, byte[][]> legs() {
      Map<String, byte[][]> found = new HashMap<>();
      for (Object item : Check.list(said, "legs")) {
        Map<String, Object> leg = Json.object(item);
        byte[][] both = {Check.hex(leg, "request"), Check.hex(leg, "answer")};
        found.put((String) leg.get("kind"), both);
      }
      return found;
    }

    byte[] train(byte[] request) {
      Message asked = Message.decode(Kind.TRAIN_REQUEST, request);
      String id = Statements.session(Statements.invitation(asked, "train"));
      byte[] before = client().answered(id, "train", request);
      if (before != null) {
        return before;
      }
      byte[] members = asked.bytes("members");
      MaskingClient.Noise noise = client().join(id, members);
      long[] whole = Check.longs(said.get("vector"));
      double variance = Check.real(session.get("variance"));
      new Layers((String) session.get("law"), variance, noise.clients, noise.layers)
          .add(whole, noise.base, noise.chain);
      Words words = new Words((int) Check.integer(session.get("bits")));
      return client().mask(request, id, members, words.of(whole), words);
    }

    byte[] answer(String kind, byte[] request) {
      switch (kind) {
        case "query.advertise":
          return client().advertise(request);
        case "query.share":
          return client().share(request);
        case "train":
          return train(request);
        case "query.confirm":
          return client().confirm(request);
        default:
          return client().reveal(request);
      }
    }
  }

  private static final String[] KINDS = {
    "query.advertise", "query.share", "train", "query.confirm", "query.reveal"
  };

  /** Each leg by a client that was restarted before it, and each twice. */
  static void testAnswersAreTheSame() {
    for (Object item : SESSIONS) {
      Map<String, Object> session = Json.object(item);
      for (int i = 0; i < Check.list(session, "clients").size(); i++) {
        One one = new One(session, i);
        Map<String, byte[][]> legs = one.legs();
        for (String kind : KINDS) {
          byte[][] both = legs.get(kind);
          if (both != null) {
            Check.same(kind, both[1], one.answer(kind, both[0]));
            Check.same(kind + " again", both[1], one.answer(kind, both[0]));
          }
        }
      }
    }
  }

  private static One upTo(int session, int legs) {
    One one = new One(Json.object(SESSIONS.get(session)), 0);
    for (String kind : List.of(KINDS).subList(0, legs)) {
      one.answer(kind, one.legs().get(kind)[0]);
    }
    return one;
  }

  static void testNoLegComesEarly() {
    for (int done = 0; done < KINDS.length; done++) {
      One one = upTo(0, done);
      for (String kind : List.of(KINDS).subList(Math.min(done + 1, KINDS.length), KINDS.length)) {
        byte[] request = one.legs().get(kind)[0];
        Check.refused(kind + " after " + done, Reason.PROTOCOL, () -> one.answer(kind, request));
      }
    }
  }

  static void testReplays() {
    One one = upTo(0, 1);
    one.draws.clear();
    Message invitation = Message.decode(Kind.INVITATION, one.legs().get("query.advertise")[0]);
    byte[] older = invitation.with("round", 1).encode();
    Check.refused("an older round", Reason.PROTOCOL, () -> one.client().advertise(older));
    byte[] other = Message.of(
        Kind.INVITATION, invitation.text("run"), 2, 0, "train", "q".repeat(64),
        invitation.text("task")).encode();
    Check.refused("another plan", Reason.PROTOCOL, () -> one.client().advertise(other));
    one.client().advertise(invitation.with("attempt", 1).encode());
    byte[] roster = one.legs().get("query.share")[0];
    Check.refused("a session that is over", Reason.PROTOCOL, () -> one.client().share(roster));
  }

  static void testRosters() {
    One one = upTo(0, 1);
    Message roster = Message.decode(Kind.ROSTER, one.legs().get("query.share")[0]);
    byte[] entries = roster.bytes("entries");
    int size = 132;
    byte[] swapped = entries.clone();
    System.arraycopy(entries, size + 4, swapped, 2 * size + 4, 64);
    byte[] unknown = entries.clone();
    unknown[size] = 4;
    byte[] forged = entries.clone();
    forged[2 * size + 100] ^= 1;
    byte[] without = Bytes.slice(entries, size, entries.length - size);
    byte[] few = Bytes.slice(entries, 0, 3 * size);
    byte[] twice = Bytes.join(entries, Bytes.slice(entries, 0, size));
    for (byte[] wrong : new byte[][] {swapped, unknown, forged, without, few}) {
      byte[] request = roster.with("entries", wrong).encode();
      Check.refused("roster", Reason.PROTOCOL, () -> one.client().share(request));
    }
    byte[] request = roster.with("entries", twice).encode();
    Check.refused("one twice", Reason.MALFORMED, () -> one.client().share(request));
    Check.same("still shares", one.legs().get("query.share")[1],
        one.client().share(roster.encode()));
  }

  static void testSurvivors() {
    One one = upTo(1, 3);
    Message survivors = Message.decode(Kind.SURVIVORS, one.legs().get("query.confirm")[0]);
    byte[] members = survivors.bytes("members");
    byte[][] wrong = {
      Bytes.slice(members, 0, members.length - 4),
      Bytes.slice(members, 4, members.length - 4),
      Bytes.join(members, new byte[] {-1, -1, -1, -1})
    };
    for (byte[] set : wrong) {
      byte[] request = survivors.with("members", set).encode();
      Check.refused("survivors", Reason.PROTOCOL, () -> one.client().confirm(request));
    }
    one.client().confirm(survivors.encode());
    // All five would be a fine set, were it the first.
    byte[] five = Message.decode(Kind.MASKED, one.legs().get("train")[1]).bytes("members");
    byte[] second = survivors.with("members", five).encode();
    Check.refused("a second set", Reason.PROTOCOL, () -> one.client().confirm(second));
  }

  static void testQuorum() {
    One one = upTo(1, 4);
    Message reveal = Message.decode(Kind.REVEAL, one.legs().get("query.reveal")[0]);
    byte[] signed = reveal.bytes("confirmations");
    byte[] few = reveal.with("confirmations", Bytes.slice(signed, 0, signed.length - 68)).encode();
    Check.refused("too few", Reason.PROTOCOL, () -> one.client().reveal(few));
    byte[] altered = signed.clone();
    altered[10] ^= 1;
    byte[] forged = reveal.with("confirmations", altered).encode();
    Check.refused("forged", Reason.PROTOCOL, () -> one.client().reveal(forged));
    byte[] short_ = reveal.with("ciphertexts", new byte[7]).encode();
    Check.refused("ciphertexts", Reason.MALFORMED, () -> one.client().reveal(short_));
    byte[] rubbish = reveal.bytes("ciphertexts").clone();
    rubbish[3] ^= 1;
    byte[] answer = one.client().reveal(reveal.with("ciphertexts", rubbish).encode());
    byte[] due = Message.decode(Kind.REVEALED, one.legs().get("query.reveal")[1]).bytes("shares");
    byte[] found = Message.decode(Kind.REVEALED, answer).bytes("shares");
    Check.same("as long", due.length, found.length);
    Check.same("rubbish isn't passed on", (byte) 0, found[0]);
  }
}
