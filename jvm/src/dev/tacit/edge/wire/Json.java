package dev.tacit.edge.wire;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.crypto.Bytes;
import java.math.BigDecimal;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * JSON as the protocol writes it: RFC 8785, strictly.
 *
 * <p>Values: {@code TreeMap<String, Object>}, {@code List<Object>}, {@code String}, {@code
 * Boolean}, {@code null} and {@link Number}, which keeps a number's digits as they came, so that
 * what is read can be written again byte for byte. Reading refuses duplicate keys, lone
 * surrogates and depths above {@link #DEPTH}.
 */
public final class Json {
  public static final int DEPTH = 32;

  private final String text;
  private int at;

  private Json(String text) {
    this.text = text;
  }

  /** A number in the digits that it came in. */
  public static final class Number {
    public final String digits;

    Number(String digits) {
      this.digits = digits;
    }

    /** A whole number. */
    public static Number of(long value) {
      return new Number(Long.toString(value));
    }

    /** Its double. */
    public double real() {
      return Double.parseDouble(digits);
    }

    /** Whether it is written as a whole number below 2^53, as RFC 8785 writes integers. */
    public boolean whole() {
      return digits.matches("0|-?[1-9][0-9]{0,15}") && Math.abs(Long.parseLong(digits)) < 1L << 53;
    }

    /** Its whole number; ask {@link #whole} before. */
    public long integer() {
      return Long.parseLong(digits);
    }

    @Override
    public String toString() {
      return digits;
    }
  }

  /**
   * Reads UTF-8.
   *
   * @throws TacitException MALFORMED: it isn't JSON
   */
  public static Object read(byte[] data) {
    try {
      String text =
          StandardCharsets.UTF_8
              .newDecoder()
              .onMalformedInput(CodingErrorAction.REPORT)
              .onUnmappableCharacter(CodingErrorAction.REPORT)
              .decode(ByteBuffer.wrap(data))
              .toString();
      Json reader = new Json(text);
      Object found = reader.value(0);
      reader.space();
      if (reader.at != text.length()) {
        throw wrong();
      }
      return found;
    } catch (CharacterCodingException | StringIndexOutOfBoundsException error) {
      throw wrong();
    }
  }

  /**
   * Reads what must be canonical, an object.
   *
   * @throws TacitException MALFORMED: it isn't, as far as {@link #write} can tell
   */
  public static Map<String, Object> canonical(byte[] data) {
    Object found = read(data);
    if (!(found instanceof Map) || !java.util.Arrays.equals(write(found), data)) {
      throw TacitException.malformed("not an object in canonical JSON");
    }
    return object(found);
  }

  /** The value as an object. */
  @SuppressWarnings("unchecked")
  public static Map<String, Object> object(Object value) {
    if (!(value instanceof Map)) {
      throw TacitException.malformed("JSON should have an object here");
    }
    return (Map<String, Object>) value;
  }

  /** The value as a list. */
  @SuppressWarnings("unchecked")
  public static List<Object> list(Object value) {
    if (!(value instanceof List)) {
      throw TacitException.malformed("JSON should have a list here");
    }
    return (List<Object>) value;
  }

  /** Canonical bytes; numbers are written as they came. */
  public static byte[] write(Object value) {
    StringBuilder out = new StringBuilder();
    put(out, value);
    return Bytes.utf8(out.toString());
  }

  private static void put(StringBuilder out, Object value) {
    if (value instanceof Map) {
      char mark = '{';
      for (Map.Entry<String, Object> entry : new TreeMap<>(object(value)).entrySet()) {
        out.append(mark);
        quote(out, entry.getKey());
        out.append(':');
        put(out, entry.getValue());
        mark = ',';
      }
      out.append(mark == '{' ? "{}" : "}");
    } else if (value instanceof List) {
      char mark = '[';
      for (Object item : list(value)) {
        out.append(mark);
        put(out, item);
        mark = ',';
      }
      out.append(mark == '[' ? "[]" : "]");
    } else if (value instanceof String) {
      quote(out, (String) value);
    } else {
      out.append(value);
    }
  }

  private static void quote(StringBuilder out, String text) {
    out.append('"');
    for (int i = 0; i < text.length(); i++) {
      char c = text.charAt(i);
      int short_ = "\b\t\n\f\r\"\\".indexOf(c);
      if (short_ >= 0) {
        out.append('\\').append("btnfr\"\\".charAt(short_));
      } else if (c < 0x20) {
        out.append(String.format("\\u%04x", (int) c));
      } else if (Character.isSurrogate(c)) {
        if (!Character.isHighSurrogate(c)
            || i + 1 == text.length()
            || !Character.isLowSurrogate(text.charAt(i + 1))) {
          throw wrong();
        }
        out.append(c).append(text.charAt(++i));
      } else {
        out.append(c);
      }
    }
    out.append('"');
  }

  /** A double as RFC 8785 (ECMAScript) writes it: the fewest digits that give it back. */
  public static String real(double value) {
    if (Double.isNaN(value) || Double.isInfinite(value)) {
      throw new IllegalArgumentException("JSON has finite numbers only");
    }
    if (value == 0) {
      return "0";
    }
    BigDecimal found = Shortest.of(Math.abs(value));
    String digits = found.unscaledValue().toString();
    int point = digits.length() - found.scale();
    String sign = value < 0 ? "-" : "";
    if (point > 0 && point <= 21) {
      if (digits.length() <= point) {
        return sign + digits + "0".repeat(point - digits.length());
      }
      return sign + digits.substring(0, point) + "." + digits.substring(point);
    }
    if (point > -6 && point <= 0) {
      return sign + "0." + "0".repeat(-point) + digits;
    }
    int power = point - 1;
    String rest = digits.length() > 1 ? "." + digits.substring(1) : "";
    return sign + digits.charAt(0) + rest + "e" + (power < 0 ? "-" : "+") + Math.abs(power);
  }

  /** A double as a value. */
  public static Number number(double value) {
    return new Number(real(value));
  }

  private Object value(int depth) {
    if (depth > DEPTH) {
      throw wrong();
    }
    space();
    char c = text.charAt(at);
    switch (c) {
      case '{':
        return map(depth);
      case '[':
        return array(depth);
      case '"':
        return string();
      case 't':
        return word("true", Boolean.TRUE);
      case 'f':
        return word("false", Boolean.FALSE);
      case 'n':
        return word("null", null);
      default:
        return number();
    }
  }

  private Object word(String word, Object value) {
    if (!text.startsWith(word, at)) {
      throw wrong();
    }
    at += word.length();
    return value;
  }

  private Map<String, Object> map(int depth) {
    Map<String, Object> found = new TreeMap<>();
    at++;
    space();
    if (text.charAt(at) == '}') {
      at++;
      return found;
    }
    while (true) {
      space();
      String key = string();
      space();
      expect(':');
      if (found.containsKey(key)) {
        throw wrong();
      }
      found.put(key, value(depth + 1));
      if (last('}')) {
        return found;
      }
    }
  }

  private List<Object> array(int depth) {
    List<Object> found = new ArrayList<>();
    at++;
    space();
    if (text.charAt(at) == ']') {
      at++;
      return found;
    }
    while (true) {
      found.add(value(depth + 1));
      if (last(']')) {
        return found;
      }
    }
  }

  private boolean last(char end) {
    space();
    char c = text.charAt(at++);
    if (c != end && c != ',') {
      throw wrong();
    }
    return c == end;
  }

  private Number number() {
    int from = at;
    while (at < text.length() && "+-.eE0123456789".indexOf(text.charAt(at)) >= 0) {
      at++;
    }
    String digits = text.substring(from, at);
    boolean fits = digits.matches("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?");
    if (digits.length() > 400 || !fits) {
      throw wrong();
    }
    return new Number(digits);
  }

  private String string() {
    expect('"');
    StringBuilder out = new StringBuilder();
    while (true) {
      char c = text.charAt(at++);
      if (c == '"') {
        return out.toString();
      }
      if (c < 0x20) {
        throw wrong();
      }
      out.append(c == '\\' ? escaped() : c);
    }
  }

  private char escaped() {
    char c = text.charAt(at++);
    if (c == 'u') {
      String hex = text.substring(at, at + 4);
      if (!hex.matches("[0-9a-fA-F]{4}")) {
        throw wrong();
      }
      at += 4;
      return (char) Integer.parseInt(hex, 16);
    }
    int found = "btnfr\"\\/".indexOf(c);
    if (found < 0) {
      throw wrong();
    }
    return "\b\t\n\f\r\"\\/".charAt(found);
  }

  private void expect(char c) {
    if (text.charAt(at++) != c) {
      throw wrong();
    }
  }

  private void space() {
    while (at < text.length() && " \t\n\r".indexOf(text.charAt(at)) >= 0) {
      at++;
    }
  }

  private static TacitException wrong() {
    return TacitException.malformed("not JSON");
  }
}
