package dev.tacit.edge.agent;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.crypto.Identity;
import dev.tacit.edge.policy.Ledger;
import dev.tacit.edge.policy.Limits;
import dev.tacit.edge.secagg.FileVault;
import dev.tacit.edge.train.Builtin;
import dev.tacit.edge.train.Records;
import dev.tacit.edge.train.Trainer;
import dev.tacit.edge.wire.Json;
import io.grpc.StatusRuntimeException;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Map;
import java.util.TreeMap;

/**
 * The command: {@code enrol BUNDLE HOME}, and {@code run HOME}, which ends by SIGTERM.
 *
 * <p>{@code HOME/agent.json} has the owner's settings: {@code data}, an .npz beside it; {@code
 * limits} ({@link Limits}); {@code eligible}, true for a device that always is; {@code softmax},
 * the SHA-256 of graphs that are a logistic regression, with the scale of their inputs.
 */
public final class Main {
  private static final long LARGEST = 256L << 20;

  private Main() {}

  /** Runs the command; exits with 1 if it fails. */
  public static void main(String[] arguments) throws InterruptedException {
    try {
      if (arguments.length == 3 && arguments[0].equals("enrol")) {
        Map<String, Object> bundle = Home.read(Paths.get(arguments[1]));
        if (bundle == null) {
          throw new TacitException(TacitException.Reason.FAILED, "the bundle isn't there");
        }
        Home home = new Home(Paths.get(arguments[2]));
        Enrolment.enrol(home, bundle, new NettyTransport());
        Journal.say("enrolled");
      } else if (arguments.length == 2 && arguments[0].equals("run")) {
        run(new Home(Paths.get(arguments[1])));
      } else {
        System.err.println("usage: enrol BUNDLE HOME | run HOME");
        System.exit(2);
      }
    } catch (TacitException | StatusRuntimeException error) {
      Journal.say("failed", "why", error.getMessage());
      System.exit(1);
    }
  }

  private static void run(Home home) throws InterruptedException {
    Map<String, Object> settings = Home.read(home.path.resolve("agent.json"));
    settings = settings == null ? new TreeMap<>() : settings;
    Home.Enrolled who = home.enrolled();
    Identity identity = home.identity();
    Limits limits = new Limits(settings.getOrDefault("limits", new TreeMap<String, Object>()));
    Ledger ledger =
        new Ledger(
            home.path.resolve("ledger.jsonl"), limits, () -> System.currentTimeMillis() / 1000.0);
    Path data = home.path.resolve(String.valueOf(settings.getOrDefault("data", "data.npz")));
    Builtin builtin = new Builtin();
    Json.object(settings.getOrDefault("softmax", new TreeMap<String, Object>()))
        .forEach((graph, scale) -> builtin.softmax(graph, ((Json.Number) scale).real()));
    Trainer trainer = new Trainer(() -> Records.load(data), builtin, manifest -> null);
    Peers peers = new Peers(home.path.resolve("peers.json"), who.population, who.authority);
    FileVault vault = new FileVault(home.path.resolve("vault"));
    Member member = new Member(who, identity, peers, vault, ledger, limits, trainer);
    boolean always = Boolean.TRUE.equals(settings.get("eligible"));
    Blobs blobs = new Blobs(home.path.resolve("blobs"), LARGEST);
    Agent agent =
        new Agent(home, who, identity, member, blobs, () -> always, new NettyTransport());
    Thread serving = Thread.currentThread();
    Runtime.getRuntime()
        .addShutdownHook(
            new Thread(
                () -> {
                  agent.stop();
                  try {
                    serving.join(3000);
                  } catch (InterruptedException error) {
                    Thread.currentThread().interrupt();
                  }
                }));
    agent.run(1000, 300_000);
  }
}
