package dev.tacit.edge.agent;

import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.wire.Json;
import java.time.Instant;
import java.util.Map;
import java.util.TreeMap;

/** What the agent writes about itself: a JSON object a line, without records, keys or numbers. */
final class Journal {
  private Journal() {}

  /** Writes a line: an event, and names with their words. */
  static void say(String event, String... fields) {
    Map<String, Object> line = new TreeMap<>();
    line.put("time", Instant.now().toString());
    line.put("event", event);
    for (int i = 0; i + 1 < fields.length; i += 2) {
      line.put(fields[i], String.valueOf(fields[i + 1]));
    }
    byte[] text = Bytes.join(Json.write(line), Bytes.utf8("\n"));
    System.err.write(text, 0, text.length);
    System.err.flush();
  }
}
