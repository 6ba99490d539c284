package dev.tacit.edge.secagg;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.crypto.Agreement;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.crypto.Identity;
import dev.tacit.edge.noise.Layers;
import dev.tacit.edge.secagg.Vault.Given;
import dev.tacit.edge.wire.Kind;
import dev.tacit.edge.wire.Message;
import dev.tacit.edge.wire.Packed;
import dev.tacit.edge.wire.Statements;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.function.IntFunction;

/**
 * The client's side of secure aggregation: a state machine that gives each answer once.
 *
 * <p>Phases: advertised, shared, masked, confirmed, revealed, each in the vault, with its answer,
 * before the answer leaves. What it guarantees against a coordinator and colluding clients, and
 * what it doesn't, is the docstring of `tacit.privacy.secagg.client`, of which this is the same
 * machine; tests/vectors/session.json holds the two to one another.
 *
 * <p>Every method takes the request in bytes, and gives the answer in bytes; the same request
 * again gets the same bytes. Not for two threads at once.
 */
public final class MaskingClient {
  private final long client;
  private final Identity identity;
  private final Directory directory;
  private final Rules rules;
  private final Vault vault;
  private final IntFunction<byte[]> random;

  /** One client's part in the sessions of a run, drawing from the platform's CSPRNG. */
  public MaskingClient(
      long client, Identity identity, Directory directory, Rules rules, Vault vault) {
    this(client, identity, directory, rules, vault, Crypto::random);
  }

  /** The same with given randomness, which golden vectors need; draws are in a fixed order. */
  public MaskingClient(
      long client,
      Identity identity,
      Directory directory,
      Rules rules,
      Vault vault,
      IntFunction<byte[]> random) {
    this.client = client;
    this.identity = identity;
    this.directory = directory;
    this.rules = rules;
    this.vault = vault;
    this.random = random;
  }

  /** The seeds of a client's noise in a session, and among how many it is shared. */
  public static final class Noise {
    public final int clients;
    public final int layers;
    public final byte[] base;
    public final byte[] chain;

    Noise(int clients, int layers, byte[] base, byte[] chain) {
      this.clients = clients;
      this.layers = layers;
      this.base = base;
      this.chain = chain;
    }
  }

  // 1. Keys

  /** Begins a session with fresh keys; draws channel, mask and self-mask seed. */
  public byte[] advertise(byte[] request) {
    Message invitation = Message.decode(Kind.INVITATION, request);
    String session = Statements.session(invitation);
    byte[] before = vault.answered(session, "query.advertise", Crypto.sha256(request));
    if (before != null) {
      return before;
    }
    String purpose = invitation.text("purpose");
    if (!purpose.equals("train") && !purpose.equals("evaluate")) {
      throw TacitException.protocol("purpose is neither train nor evaluate");
    }
    Agreement channel = new Agreement(random.apply(32));
    Agreement mask = new Agreement(random.apply(32));
    Secrets secrets =
        new Secrets(
                invitation.text("run"),
                invitation.integer("round"),
                invitation.integer("attempt"),
                purpose,
                session)
            .with("channel", channel.scalar())
            .with("mask", mask.scalar())
            .with("self_seed", random.apply(32))
            .with("rules", ruled());
    byte[] answer =
        answer(Kind.ADVERTISEMENT, secrets, channel.publicKey(), mask.publicKey());
    vault.open(secrets, given("query.advertise", request, answer));
    return answer;
  }

  // 2. Shares

  /** Checks everybody's keys; splits this client's secrets. Draws base, chain and a key. */
  public byte[] share(byte[] request) {
    Message roster = Message.decode(Kind.ROSTER, request);
    String session = roster.text("session");
    byte[] before = vault.answered(session, "query.share", Crypto.sha256(request));
    if (before != null) {
      return before;
    }
    Secrets secrets = read(session, "advertised");
    Cohort cohort = new Cohort(roster.bytes("entries"), rules);
    checkRoster(cohort, session, secrets);
    secrets =
        secrets
            .with("base", random.apply(32))
            .with("chain", random.apply(Layers.SEED_BYTES))
            .with("roster", roster.bytes("entries"));
    List<byte[]> roots = new ArrayList<>();
    for (long peer : cohort.neighbours(client)) {
      byte[] other = cohort.entry(peer).channel;
      roots.add(Secrets.channelRoot(secrets.pair("channel"), other, session, cohort.digest));
    }
    // The roots open what the channel key would, and only in this session.
    secrets = secrets.with("roots", Dealing.joined(roots)).with("channel", Bytes.EMPTY);
    byte[][] dealt = Dealing.deal(cohort, client, secrets, roots, random.apply(32));
    byte[] answer = answer(Kind.SHARES, secrets, dealt[0], dealt[1]);
    vault.advance(session, "advertised", "shared", secrets, given("query.share", request, answer));
    return answer;
  }

  private void checkRoster(Cohort cohort, String session, Secrets secrets) {
    Packed.Entry own = cohort.entry(client);
    if (own == null
        || !Arrays.equals(own.channel, secrets.pair("channel").publicKey())
        || !Arrays.equals(own.mask, secrets.pair("mask").publicKey())) {
      throw TacitException.protocol("the roster doesn't have this client with its own keys");
    }
    Set<String> keys = new HashSet<>();
    for (Packed.Entry entry : cohort.entries()) {
      if (!keys.add(Bytes.hex(entry.channel)) || !keys.add(Bytes.hex(entry.mask))) {
        throw TacitException.protocol("the roster has one key twice");
      }
    }
    for (Packed.Entry entry : cohort.entries()) {
      byte[] known = directory.publicKey(entry.client);
      if (known == null) {
        throw TacitException.protocol(
            "the roster has client " + entry.client + ", who isn't in the directory");
      }
      byte[] statement = Statements.advertised(session, entry.client, entry.channel, entry.mask);
      if (!Identity.verify(known, entry.signature, statement)) {
        throw TacitException.protocol(
            "the keys of client " + entry.client + " aren't signed by it for this session");
      }
    }
  }

  // 3. The masked vector

  /** The answer given to this very request before, or null: asked before any training. */
  public byte[] answered(String session, String kind, byte[] request) {
    return vault.answered(session, kind, Crypto.sha256(request));
  }

  /** What this client needs to know before it makes its vector. */
  public Noise join(String session, byte[] members) {
    Secrets secrets = read(session, "shared");
    int count = known(cohort(secrets), members).size();
    return new Noise(count, rules.layers(count), secrets.get("base"), secrets.get("chain"));
  }

  /** Masks a vector of words, once; it is overwritten. */
  public byte[] mask(byte[] request, String session, byte[] members, int[] vector, Words words) {
    Secrets secrets = read(session, "shared");
    Cohort cohort = cohort(secrets);
    Set<Long> present = new HashSet<>(known(cohort, members));
    Agreement pair = secrets.pair("mask");
    List<byte[]> added = new ArrayList<>();
    List<byte[]> subtracted = new ArrayList<>();
    added.add(Secrets.selfMask(secrets.get("self_seed"), session));
    for (long peer : cohort.neighbours(client)) {
      if (present.contains(peer)) {
        byte[] other = cohort.entry(peer).mask;
        byte[] key = Secrets.pairMask(pair, other, cohort.digest, members, client, peer);
        (client < peer ? added : subtracted).add(key);
      }
    }
    Masks.accumulate(vector, words, added, subtracted);
    byte[] answer = answer(Kind.MASKED, secrets, members, words.pack(vector));
    // What the vector was masked with isn't needed again: off the disk.
    Secrets kept = secrets.with("members", members);
    for (String name : new String[] {"mask", "self_seed", "base", "chain"}) {
      kept = kept.with(name, Bytes.EMPTY);
    }
    vault.advance(session, "shared", "masked", kept, given(secrets.purpose, request, answer));
    return answer;
  }

  private List<Long> known(Cohort cohort, byte[] members) {
    List<Long> known = Packed.members(members);
    if (!Cohort.missing(known, cohort.clients).isEmpty() || !known.contains(client)) {
      throw TacitException.protocol(
          "the members aren't this roster's, or this client isn't among them");
    }
    if (known.size() < cohort.fewest()) {
      throw TacitException.protocol(
          known.size() + " members are too few; " + cohort.fewest() + " have to be there");
    }
    return known;
  }

  // 4. Survivors

  /** Signs whose vectors are in the sum: one set in a session, and no other. */
  public byte[] confirm(byte[] request) {
    Message survivors = Message.decode(Kind.SURVIVORS, request);
    String session = survivors.text("session");
    byte[] before = vault.answered(session, "query.confirm", Crypto.sha256(request));
    if (before != null) {
      return before;
    }
    Vault.Held held = held(session);
    Secrets secrets = held.secrets;
    byte[] packed = survivors.bytes("members");
    if (held.phase.equals("masked")) {
      checkSurvivors(secrets, packed);
      secrets = secrets.with("survivors", packed);
    } else if (!held.phase.equals("confirmed") && !held.phase.equals("revealed")) {
      throw TacitException.protocol("survivors were asked for in phase " + held.phase);
    } else if (!Arrays.equals(packed, secrets.get("survivors"))) {
      throw TacitException.protocol("a second set of survivors in one session");
    }
    byte[] statement =
        Statements.agreement(session, cohort(secrets).digest, secrets.get("members"), packed);
    byte[] answer = answer(Kind.CONFIRMATION, secrets, statement);
    if (held.phase.equals("masked")) {
      Given given = given("query.confirm", request, answer);
      vault.advance(session, "masked", "confirmed", secrets, given);
    }
    return answer;
  }

  private void checkSurvivors(Secrets secrets, byte[] packed) {
    List<Long> members = Packed.members(secrets.get("members"));
    List<Long> survived = Packed.members(packed);
    if (!Cohort.missing(survived, members).isEmpty() || !survived.contains(client)) {
      throw TacitException.protocol(
          "the survivors aren't members, or this client isn't among them");
    }
    int fewest = rules.survivors(members.size());
    if (survived.size() < fewest) {
      throw TacitException.protocol(
          survived.size() + " survivors of " + members.size() + " carry less noise than planned");
    }
    if (!cohort(secrets).enoughAround(client, survived)) {
      throw TacitException.protocol("too few of this client's neighbours survive");
    }
  }

  // 5. Shares of the peers' secrets

  /** For each neighbour, a share of its self-mask, or of its key if it dropped. */
  public byte[] reveal(byte[] request) {
    Message reveal = Message.decode(Kind.REVEAL, request);
    String session = reveal.text("session");
    byte[] before = vault.answered(session, "query.reveal", Crypto.sha256(request));
    if (before != null) {
      return before;
    }
    Vault.Held held = held(session);
    if (!held.phase.equals("confirmed") && !held.phase.equals("revealed")) {
      throw TacitException.protocol("shares were asked for in phase " + held.phase);
    }
    Secrets secrets = held.secrets;
    Cohort cohort = cohort(secrets);
    checkQuorum(reveal, cohort, secrets);
    byte[] answer =
        answer(
            Kind.REVEALED,
            secrets,
            Dealing.reveal(cohort, client, secrets, reveal.bytes("ciphertexts")));
    if (held.phase.equals("confirmed")) {
      Given given = given("query.reveal", request, answer);
      vault.advance(session, "confirmed", "revealed", secrets, given);
    }
    return answer;
  }

  private void checkQuorum(Message reveal, Cohort cohort, Secrets secrets) {
    byte[] packed = secrets.get("survivors");
    byte[] statement =
        Statements.agreement(
            secrets.session, cohort.digest, secrets.get("members"), packed);
    Set<Long> survived = new HashSet<>(Packed.members(packed));
    List<Long> agreed = new ArrayList<>();
    for (Packed.Signed one : Packed.signed(reveal.bytes("confirmations"))) {
      byte[] known = survived.contains(one.client) ? directory.publicKey(one.client) : null;
      if (known == null || !Identity.verify(known, one.signature, statement)) {
        throw TacitException.protocol(
            "client " + one.client + " didn't sign this set of survivors");
      }
      agreed.add(one.client);
    }
    int needed = rules.quorum(cohort.size());
    if (agreed.size() < needed) {
      throw TacitException.protocol(
          agreed.size() + " clients signed the survivors; " + needed + " have to");
    }
    if (!cohort.enoughAround(client, agreed)) {
      throw TacitException.protocol("too few of this client's neighbours signed the survivors");
    }
  }

  // What they share

  private Cohort cohort(Secrets secrets) {
    return new Cohort(secrets.get("roster"), rules);
  }

  /** A session, which keeps the rules under which it was entered: no other plan's will do. */
  private Vault.Held held(String session) {
    Vault.Held found = vault.read(session);
    if (!Arrays.equals(found.secrets.get("rules"), ruled())) {
      throw TacitException.protocol("the session was entered under other rules");
    }
    return found;
  }

  private byte[] ruled() {
    String text =
        rules.minimum + " " + rules.largest + " " + rules.dropout + " " + rules.collusion;
    return Bytes.utf8(text);
  }

  private Secrets read(String session, String phase) {
    Vault.Held held = held(session);
    if (!held.phase.equals(phase)) {
      throw TacitException.protocol("the session is in phase " + held.phase + ", not " + phase);
    }
    return held.secrets;
  }

  private byte[] answer(Kind kind, Secrets secrets, byte[]... arrays) {
    Object[] values = new Object[6 + arrays.length];
    values[0] = secrets.run;
    values[1] = secrets.round;
    values[2] = secrets.attempt;
    values[3] = secrets.session;
    values[4] = client;
    values[5] = Bytes.EMPTY;
    System.arraycopy(arrays, 0, values, 6, arrays.length);
    Message bare = Message.of(kind, values);
    return bare.with("signature", identity.sign(Statements.answer(bare))).encode();
  }

  private static Given given(String kind, byte[] request, byte[] answer) {
    return new Given(kind, Crypto.sha256(request), answer);
  }
}
