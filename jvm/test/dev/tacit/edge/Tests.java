package dev.tacit.edge;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.Arrays;
import java.util.Comparator;

/** Runs every static method {@code test...} of the classes of tests; exits with 1 if one fails. */
public final class Tests {
  private static final Class<?>[] CLASSES = {
    CryptoTest.class, WireTest.class, SecaggTest.class, NoiseTest.class, SessionTest.class,
    PolicyTest.class, TrainTest.class
  };

  private Tests() {}

  /** Names of classes restrict what is run. */
  public static void main(String[] names) {
    int failed = 0;
    int count = 0;
    for (Class<?> one : CLASSES) {
      if (names.length > 0 && !Arrays.asList(names).contains(one.getSimpleName())) {
        continue;
      }
      Method[] methods = one.getDeclaredMethods();
      Arrays.sort(methods, Comparator.comparing(Method::getName));
      for (Method method : methods) {
        if (method.getName().startsWith("test")) {
          count++;
          failed += run(one, method) ? 0 : 1;
        }
      }
    }
    System.out.println(count + " tests, " + failed + " failed");
    System.exit(failed > 0 || count == 0 ? 1 : 0);
  }

  private static boolean run(Class<?> one, Method method) {
    String name = one.getSimpleName() + "." + method.getName();
    try {
      method.setAccessible(true);
      method.invoke(null);
      System.out.println("ok " + name);
      return true;
    } catch (InvocationTargetException error) {
      System.out.println("FAILED " + name);
      error.getCause().printStackTrace(System.out);
      return false;
    } catch (ReflectiveOperationException error) {
      throw new AssertionError(error);
    }
  }
}
