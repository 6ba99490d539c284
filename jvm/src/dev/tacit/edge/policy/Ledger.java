package dev.tacit.edge.policy;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.wire.Json;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.DoubleSupplier;

/**
 * What the device took part in: a line of JSON each, only appended, on disk before a call returns.
 *
 * <p>What counts as what is `tacit.client.ledger`'s: a participation is one session's vector, the
 * same session again is none, the separation holds between different rounds, and a clock that
 * goes backwards lengthens it. A line that a power cut left half is cut off: nothing was sent for
 * it. Each line has the plan's digest; epsilon isn't computed here.
 */
public final class Ledger {
  private final Path path;
  private final Limits limits;
  private final DoubleSupplier clock;
  private final List<Map<String, Object>> entries = new ArrayList<>();

  /**
   * The ledger in a file, made if it isn't there.
   *
   * @param clock Unix seconds
   */
  public Ledger(Path path, Limits limits, DoubleSupplier clock) {
    this.path = path;
    this.limits = limits;
    this.clock = clock;
    try {
      if (!Files.exists(path)) {
        dev.tacit.edge.secagg.Storage.replace(path, Bytes.EMPTY);
      }
      byte[] data = Files.readAllBytes(path);
      int end = 0;
      for (int i = 0; i < data.length; i++) {
        if (data[i] == '\n') {
          entries.add(Json.object(Json.read(Bytes.slice(data, end, i - end))));
          end = i + 1;
        }
      }
      if (end < data.length) {
        try (FileChannel file = FileChannel.open(path, StandardOpenOption.WRITE)) {
          file.truncate(end);
          file.force(true);
        }
      }
    } catch (IOException | TacitException error) {
      throw new TacitException(Reason.FAILED, "the device's ledger can't be read", error);
    }
  }

  /**
   * Whether a session may be entered; nothing is charged.
   *
   * @throws TacitException ROUNDS or SEPARATION: taking part would exceed a limit
   */
  public synchronized void project(String run, long round, String session) {
    if (charged(session)) {
      return;
    }
    if (limits.rounds >= 0 && entries.size() >= limits.rounds) {
      throw new TacitException(
          Reason.ROUNDS, "rounds=" + limits.rounds + " have been taken part in");
    }
    for (Map<String, Object> entry : entries) {
      boolean same = run.equals(entry.get("run")) && round == number(entry, "round");
      double since = clock.getAsDouble() - ((Json.Number) entry.get("time")).real();
      // Written so that a clock that gives NaN is refused too.
      if (!same && limits.separation > 0 && !(since >= limits.separation)) {
        throw new TacitException(
            Reason.SEPARATION, "the separation between rounds hasn't passed");
      }
    }
  }

  /**
   * Charges a participation, durably, before its vector is made; the same session only once.
   *
   * @throws TacitException ROUNDS or SEPARATION, and nothing is charged
   */
  public synchronized void charge(
      String run, long round, long attempt, String purpose, String session, Plan plan) {
    project(run, round, session);
    if (charged(session)) {
      return;
    }
    double latest = 0;
    for (Map<String, Object> entry : entries) {
      latest = Math.max(latest, ((Json.Number) entry.get("time")).real());
    }
    Map<String, Object> entry = new TreeMap<>();
    entry.put("time", Json.number(Math.max(clock.getAsDouble(), latest)));
    entry.put("run", run);
    entry.put("round", Json.Number.of(round));
    entry.put("attempt", Json.Number.of(attempt));
    entry.put("purpose", purpose);
    entry.put("session", session);
    entry.put("plan", plan.digest);
    append(Bytes.join(Json.write(entry), Bytes.utf8("\n")));
    entries.add(entry);
  }

  private void append(byte[] line) {
    try (FileChannel file =
        FileChannel.open(path, StandardOpenOption.WRITE, StandardOpenOption.APPEND)) {
      ByteBuffer buffer = ByteBuffer.wrap(line);
      while (buffer.hasRemaining()) {
        file.write(buffer);
      }
      file.force(true);
    } catch (IOException error) {
      throw new TacitException(Reason.FAILED, "the device's ledger can't be written", error);
    }
  }

  /** How many participations were charged. */
  public synchronized int participations() {
    return entries.size();
  }

  private boolean charged(String session) {
    return entries.stream().anyMatch(entry -> session.equals(entry.get("session")));
  }

  private static long number(Map<String, Object> entry, String field) {
    return ((Json.Number) entry.get(field)).integer();
  }
}
