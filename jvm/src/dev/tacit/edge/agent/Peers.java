package dev.tacit.edge.agent;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Identity;
import dev.tacit.edge.secagg.Directory;
import dev.tacit.edge.secagg.Storage;
import dev.tacit.edge.v1.Attestation;
import dev.tacit.edge.wire.Json;
import dev.tacit.edge.wire.Statements;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * Who the other devices are: each identity pinned on this device when it is first seen.
 *
 * <p>A key is there only if the enrolment authority signed it for that client of this population;
 * the first such key stays, over restarts, and another one for the same client, or the same key
 * for another, is refused for ever. A run keeps the plan with which this device first met it.
 */
final class Peers implements Directory {
  private final Path path;
  private final String population;
  private final byte[] authority;
  private Map<String, Object> known = new TreeMap<>();
  private Map<String, Object> runs = new TreeMap<>();

  Peers(Path path, String population, byte[] authority) {
    this.path = path;
    this.population = population;
    this.authority = authority;
    Map<String, Object> held = Home.read(path);
    if (held != null) {
      known = Json.object(held.get("peers"));
      runs = Json.object(held.get("runs"));
    }
  }

  /** Whether the authority signed an identity for a population. */
  static boolean attested(Attestation said, String population, byte[] authority) {
    byte[] identity = said.getIdentity().toByteArray();
    byte[] statement =
        Statements.attestation(population, said.getClient() & 0xFFFFFFFFL, identity);
    return identity.length == 32
        && Identity.verify(authority, said.getSignature().toByteArray(), statement);
  }

  @Override
  public synchronized byte[] publicKey(long client) {
    Object found = known.get(Long.toString(client));
    return found == null ? null : Bytes.unhex((String) found);
  }

  /** Those of them who aren't pinned yet. */
  synchronized List<Long> unknown(Collection<Long> clients) {
    List<Long> found = new ArrayList<>();
    for (long client : clients) {
      if (!known.containsKey(Long.toString(client))) {
        found.add(client);
      }
    }
    return found;
  }

  /**
   * Pins identities, all of them or none.
   *
   * @throws TacitException PROTOCOL: one isn't attested, or isn't the one that is pinned
   */
  synchronized void pin(Collection<Attestation> entries) {
    Map<String, Object> all = new TreeMap<>(known);
    Map<Object, String> owners = new HashMap<>();
    all.forEach((client, key) -> owners.put(key, client));
    for (Attestation entry : entries) {
      if (!attested(entry, population, authority)) {
        throw TacitException.protocol("the identity of a client isn't the authority's word");
      }
      String client = Long.toString(entry.getClient() & 0xFFFFFFFFL);
      String key = Bytes.hex(entry.getIdentity().toByteArray());
      if (!key.equals(all.getOrDefault(client, key))) {
        throw TacitException.protocol(
            "client " + client + " has another identity than the one pinned here");
      }
      if (!client.equals(owners.getOrDefault(key, client))) {
        throw TacitException.protocol("one identity was given for two clients");
      }
      all.put(client, key);
      owners.put(key, client);
    }
    if (all.size() > known.size()) {
      save(all, runs);
      known = all;
    }
  }

  /**
   * Pins the plan of a run.
   *
   * @throws TacitException PLAN: the run had another plan
   */
  synchronized void agree(String run, String plan) {
    if (!plan.equals(runs.getOrDefault(run, plan))) {
      throw new TacitException(
          Reason.PLAN, "the run had another plan when this device first met it");
    }
    if (!runs.containsKey(run)) {
      Map<String, Object> all = new TreeMap<>(runs);
      all.put(run, plan);
      save(known, all);
      runs = all;
    }
  }

  private void save(Map<String, Object> peers, Map<String, Object> agreed) {
    Map<String, Object> whole = new TreeMap<>();
    whole.put("peers", peers);
    whole.put("runs", agreed);
    Storage.replace(path, Json.write(whole));
  }
}
