package dev.tacit.edge.agent;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.crypto.Identity;
import dev.tacit.edge.noise.Encoder;
import dev.tacit.edge.noise.Lattice;
import dev.tacit.edge.noise.Layers;
import dev.tacit.edge.noise.Rotation;
import dev.tacit.edge.policy.Ledger;
import dev.tacit.edge.policy.Limits;
import dev.tacit.edge.policy.Plan;
import dev.tacit.edge.policy.RunDocument;
import dev.tacit.edge.secagg.MaskingClient;
import dev.tacit.edge.secagg.Vault;
import dev.tacit.edge.secagg.Words;
import dev.tacit.edge.train.Trainer;
import dev.tacit.edge.v1.Attestation;
import dev.tacit.edge.wire.Kind;
import dev.tacit.edge.wire.Message;
import dev.tacit.edge.wire.Packed;
import dev.tacit.edge.wire.Statements;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;

/**
 * What a device answers to one leg of a round; `tacit.client.edge.member`, with the same order.
 *
 * <p>Guarantees: nothing is answered without a run document that the pinned coordinator key
 * signed, for this population and run, whose plan is the one this device first met the run with,
 * and within the owner's limits: projected at the first leg, charged durably before a vector is
 * made. The very same leg gets the same bytes. A refusal names settings, never data. Only secure
 * aggregation is spoken here. Not for two threads at once.
 */
final class Member {
  private final Home.Enrolled who;
  private final Identity identity;
  private final Peers peers;
  private final Vault vault;
  private final Ledger ledger;
  private final Limits limits;
  private final Trainer trainer;

  Member(
      Home.Enrolled who,
      Identity identity,
      Peers peers,
      Vault vault,
      Ledger ledger,
      Limits limits,
      Trainer trainer) {
    this.who = who;
    this.identity = identity;
    this.peers = peers;
    this.vault = vault;
    this.ledger = ledger;
    this.limits = limits;
    this.trainer = trainer;
  }

  private static Kind kind(String kind) {
    switch (kind) {
      case "query.advertise":
        return Kind.INVITATION;
      case "query.share":
        return Kind.ROSTER;
      case "train":
        return Kind.TRAIN_REQUEST;
      case "evaluate":
        return Kind.EVALUATE_REQUEST;
      case "query.confirm":
        return Kind.SURVIVORS;
      case "query.reveal":
        return Kind.REVEAL;
      default:
        throw new TacitException(Reason.UNSUPPORTED, "the task's kind isn't a leg of a round");
    }
  }

  /** A run document, verified; its plan is the run's from now on. */
  RunDocument document(byte[] data) {
    RunDocument about = RunDocument.decode(data, who.coordinator);
    if (!about.population.equals(who.population)) {
      throw new TacitException(Reason.PLAN, "the run document is for another population");
    }
    peers.agree(about.run, about.plan.digest);
    return about;
  }

  /** Whether a graph's bytes are needed. */
  boolean needsGraphs() {
    return trainer.needsGraphs();
  }

  /** Clients that a leg is about and whose identities aren't pinned here yet. */
  List<Long> unknown(String kind, byte[] body) {
    if (!kind.equals("query.share")) {
      return List.of();
    }
    List<Long> clients = new ArrayList<>();
    byte[] entries = Message.decode(Kind.ROSTER, body).bytes("entries");
    Packed.roster(entries).forEach(entry -> clients.add(entry.client));
    return peers.unknown(clients);
  }

  /** Pins the identities of peers. */
  void meet(Collection<Attestation> entries) {
    peers.pin(entries);
  }

  /**
   * Answers a leg.
   *
   * @throws TacitException with the reason of a refusal
   */
  byte[] answer(String kind, byte[] body, byte[] document, boolean eligible) {
    Message message = Message.decode(kind(kind), body);
    RunDocument about = document(document);
    if (!message.text("run").equals(about.run)) {
      throw new TacitException(Reason.PLAN, "the run document is another run's");
    }
    MaskingClient masking = masking(about);
    switch (message.kind()) {
      case TRAIN_REQUEST:
      case EVALUATE_REQUEST:
        return work(about, masking, message, kind, body, eligible);
      case INVITATION:
        return advertise(about, masking, message, body, eligible);
      case ROSTER:
        return masking.share(body);
      case SURVIVORS:
        return masking.confirm(body);
      default:
        return masking.reveal(body);
    }
  }

  private MaskingClient masking(RunDocument about) {
    if (about.plan.rules == null || !about.plan.aggregation.equals("secure")) {
      throw new TacitException(Reason.UNSUPPORTED, "this agent speaks aggregation=secure only");
    }
    return new MaskingClient(who.client, identity, peers, about.plan.rules, vault);
  }

  private byte[] advertise(
      RunDocument about, MaskingClient masking, Message invitation, byte[] body, boolean eligible) {
    String session = Statements.session(invitation);
    byte[] before = masking.answered(session, "query.advertise", body);
    if (before != null) {
      return before;
    }
    agree(about, invitation.text("plan"));
    checkEligible(eligible);
    fits(about, invitation.text("purpose"));
    ledger.project(about.run, invitation.integer("round"), session);
    return masking.advertise(body);
  }

  private byte[] work(
      RunDocument about,
      MaskingClient masking,
      Message request,
      String purpose,
      byte[] body,
      boolean eligible) {
    String session = Statements.session(Statements.invitation(request, purpose));
    byte[] before = masking.answered(session, purpose, body);
    if (before != null) {
      return before;
    }
    agree(about, request.text("plan"));
    if (!request.text("frozen").equals(about.frozen)) {
      throw new TacitException(
          Reason.PLAN, "what isn't trained differs from the run document's");
    }
    double bound = request.real("clip");
    if (purpose.equals("train")) {
      about.plan.checkClip(bound);
      limits.checkClip(bound);
    }
    byte[] members = request.bytes("members");
    MaskingClient.Noise noise = masking.join(session, members);
    checkEligible(eligible);
    fits(about, purpose);
    long round = request.integer("round");
    ledger.charge(about.run, round, request.integer("attempt"), purpose, session, about.plan);
    long[] whole = vector(about, request, purpose, bound);
    Lattice lattice = purpose.equals("train") ? about.plan.updates : about.plan.counts;
    new Layers(about.plan.mechanism, lattice.variance, noise.clients, noise.layers)
        .add(whole, noise.base, noise.chain);
    Words words = new Words(lattice.bits);
    return masking.mask(body, session, members, words.of(whole), words);
  }

  /** The integers that leave, without noise. */
  private long[] vector(RunDocument about, Message request, String purpose, double bound) {
    byte[] signs = Rotation.publicSeed(purpose, request.integer("round"));
    float[] parameters = request.vector("parameters");
    if (purpose.equals("evaluate")) {
      double[] counts = trainer.counts(about, parameters);
      byte[] key = Crypto.random(32);
      return Encoder.encode(counts, Plan.Evaluation.SENSITIVITY, about.plan.counts, signs, key);
    }
    double[] update = trainer.train(about, parameters);
    double norm = Encoder.norm(update);
    Lattice lattice = about.plan.updates;
    if (about.plan.client != null) {
      double limit = bound * Encoder.MARGIN;
      double scale = norm > limit ? limit / norm : 1;
      Arrays.setAll(update, i -> (float) (update[i] * scale));
    }
    long[] whole = Encoder.encode(update, bound, lattice, signs, Crypto.random(32));
    if (lattice.vote > 0) {
      whole = Arrays.copyOf(whole, whole.length + 1);
      // Of adaptive clipping: whether the update was within the bound.
      whole[whole.length - 1] = norm <= bound ? lattice.vote : -lattice.vote;
    }
    return whole;
  }

  /** The request is under the document's plan, and that is one for this device. */
  private void agree(RunDocument about, String digest) {
    if (!digest.equals(about.plan.digest)) {
      throw new TacitException(Reason.PLAN, "the plan isn't the run document's");
    }
    if (about.plan.record == null) {
      throw new TacitException(
          Reason.UNSUPPORTED, "privacy.record=none: devices train by DP-SGD only");
    }
    limits.check(about.plan);
  }

  private void fits(RunDocument about, String purpose) {
    if (purpose.equals("evaluate") && about.evaluation == null) {
      throw new TacitException(Reason.UNSUPPORTED, "the run document has no evaluation");
    }
    trainer.fits(about, purpose);
  }

  private static void checkEligible(boolean eligible) {
    if (!eligible) {
      throw new TacitException(Reason.INELIGIBLE, "the device's conditions don't hold now");
    }
  }

  /** What a refusal may say, cut to what the wire takes. */
  static String said(TacitException error) {
    byte[] text = Bytes.utf8(error.getMessage());
    return text.length <= 200 ? error.getMessage() : error.getMessage().substring(0, 50);
  }
}
