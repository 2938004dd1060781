// A compiler that stays: `java -cp JARS CompileServer.java java|kotlin|scala OPTION...`.
//
// Starting a virtual machine and warming a compiler up takes seconds, a second compilation a fraction of that. Nothing
// that it compiles is run here. Requests come over standard input, answers go over standard output, both as
// one frame: four bytes of length, then UTF-8 texts and bytes, each with four bytes of length before it.
// Request: name and content of each source file. Answer: "" and name and content of each class file, or what is wrong.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import javax.tools.JavaCompiler;
import javax.tools.ToolProvider;

public class CompileServer {
    /** Compiles files with options, prints what is wrong to the stream, and says whether all went well. */
    private interface Compiler {
        boolean compile(PrintStream errors, List<String> words) throws Exception;
    }

    public static void main(String[] words) throws Exception {
        DataInputStream requests = new DataInputStream(System.in);
        DataOutputStream answers = new DataOutputStream(new FileOutputStream(FileDescriptor.out));
        // Scala's compiler keeps the stream that it finds when its classes are loaded: one stream for all requests.
        ByteArrayOutputStream said = new ByteArrayOutputStream();
        PrintStream errors = new PrintStream(said, true, "UTF-8");
        System.setOut(errors);
        System.setErr(errors);
        Compiler compiler = compilerOf(words[0]);
        List<String> options = Arrays.asList(words).subList(1, words.length);
        while (true) {
            byte[] request = new byte[requests.readInt()];
            requests.readFully(request);
            said.reset();
            byte[] answer = answer(compiler, options, request, errors, said);
            answers.writeInt(answer.length);
            answers.write(answer);
            answers.flush();
        }
    }

    private static Compiler compilerOf(String language) throws Exception {
        if (language.equals("java")) {
            JavaCompiler javac = ToolProvider.getSystemJavaCompiler();
            return (errors, words) -> javac.run(null, errors, errors, words.toArray(new String[0])) == 0;
        }
        if (language.equals("kotlin")) {
            Class<?> kind = Class.forName("org.jetbrains.kotlin.cli.jvm.K2JVMCompiler");
            var exec = kind.getMethod("exec", PrintStream.class, String[].class);
            return (errors, words) -> {
                Object compiler = kind.getConstructor().newInstance();
                Object code = exec.invoke(compiler, errors, words.toArray(new String[0]));
                return code.toString().equals("OK");
            };
        }
        if (language.equals("scala")) {
            Class<?> kind = Class.forName("scala.tools.nsc.Main");
            var process = kind.getMethod("process", String[].class);
            var reporter = kind.getMethod("reporter");
            return (errors, words) -> {
                process.invoke(null, (Object) words.toArray(new String[0]));
                Object told = reporter.invoke(null);
                return !(Boolean) told.getClass().getMethod("hasErrors").invoke(told);
            };
        }
        throw new IllegalArgumentException(language);
    }

    private static byte[] answer(
            Compiler compiler, List<String> options, byte[] request, PrintStream errors, ByteArrayOutputStream said)
            throws IOException {
        Path folder = Files.createTempDirectory("compile");
        try {
            Path classes = Files.createDirectory(folder.resolve("classes"));
            List<String> words = new ArrayList<>(options);
            words.addAll(List.of("-d", classes.toString()));
            words.addAll(write(request, folder));
            boolean done;
            try {
                done = compiler.compile(errors, words);
            } catch (Throwable problem) { // StackOverflowError and OutOfMemoryError too: a program is to blame
                Throwable cause = problem.getCause() == null ? problem : problem.getCause();
                errors.println("the compiler failed: " + cause);
                done = false;
            }
            errors.flush();
            return done ? pack(classes) : complaint(said.toString(StandardCharsets.UTF_8), folder);
        } finally {
            remove(folder);
        }
    }

    private static List<String> write(byte[] request, Path folder) throws IOException {
        DataInputStream parts = new DataInputStream(new ByteArrayInputStream(request));
        List<String> paths = new ArrayList<>();
        while (parts.available() > 0) {
            String name = new String(part(parts), StandardCharsets.UTF_8);
            Path path = folder.resolve(Path.of(name).getFileName());
            Files.write(path, part(parts));
            paths.add(path.toString());
        }
        return paths;
    }

    private static byte[] part(DataInputStream parts) throws IOException {
        byte[] content = new byte[parts.readInt()];
        parts.readFully(content);
        return content;
    }

    private static byte[] pack(Path classes) throws IOException {
        ByteArrayOutputStream packed = new ByteArrayOutputStream();
        DataOutputStream out = new DataOutputStream(packed);
        out.writeInt(0);
        for (Path path : filesBelow(classes)) {
            byte[] name = classes.relativize(path).toString().getBytes(StandardCharsets.UTF_8);
            byte[] content = Files.readAllBytes(path);
            out.writeInt(name.length);
            out.write(name);
            out.writeInt(content.length);
            out.write(content);
        }
        return packed.toByteArray();
    }

    private static byte[] complaint(String said, Path folder) throws IOException {
        String text = said.replace(folder + "/", "").strip();
        byte[] told = (text.isEmpty() ? "it does not compile" : text).getBytes(StandardCharsets.UTF_8);
        ByteArrayOutputStream packed = new ByteArrayOutputStream();
        new DataOutputStream(packed).writeInt(Math.min(told.length, 4096));
        packed.write(told, 0, Math.min(told.length, 4096));
        return packed.toByteArray();
    }

    private static List<Path> filesBelow(Path folder) throws IOException {
        try (Stream<Path> paths = Files.walk(folder)) {
            return paths.filter(Files::isRegularFile).sorted().collect(Collectors.toList());
        }
    }

    private static void remove(Path folder) throws IOException {
        List<Path> paths;
        try (Stream<Path> found = Files.walk(folder)) {
            paths = found.sorted(Comparator.reverseOrder()).collect(Collectors.toList());
        }
        for (Path path : paths) {
            Files.delete(path);
        }
    }
}
