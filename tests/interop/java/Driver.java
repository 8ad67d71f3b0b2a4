// Microsoft's Java client, driven by one JSON object a line on stdin, telling all it sees on stdout.
//
// Commands and events are those of ../../e2e/driver.mjs, as far as this client can obey them: connect (over "ws" or "lp",
// in JSON), on, answer, invoke, send, stream, cancel, upload, state, stop, version.

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.microsoft.signalr.HttpHubConnectionBuilder;
import com.microsoft.signalr.HubConnection;
import com.microsoft.signalr.HubConnectionBuilder;
import com.microsoft.signalr.TransportEnum;
import io.reactivex.rxjava3.core.Observable;
import io.reactivex.rxjava3.core.Single;
import io.reactivex.rxjava3.disposables.Disposable;
import io.reactivex.rxjava3.plugins.RxJavaPlugins;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

public class Driver {
    private static final Gson GSON = new GsonBuilder().serializeNulls().create();
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    private static final Set<String> NO_RESULT = Set.of("Join", "Leave", "Broadcast");
    private static final Map<String, HubConnection> CONNECTIONS = new ConcurrentHashMap<>();
    private static final Map<Integer, Disposable> STREAMS = new ConcurrentHashMap<>();

    public static void main(String[] arguments) throws Exception {
        // What fails after a connection is gone has nobody to be told to.
        RxJavaPlugins.setErrorHandler(error -> {});
        tell(event("ready"));
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = lines.readLine()) != null; ) {
            JsonObject command = JsonParser.parseString(line).getAsJsonObject();
            try {
                obey(command);
            } catch (Exception error) {
                failed(command, error);
            }
        }
        System.exit(0);
    }

    private static void obey(JsonObject command) {
        String name = command.get("cmd").getAsString();
        if (name.equals("version")) {
            done(command, HubConnection.class.getPackage().getImplementationVersion());
            return;
        }
        if (name.equals("cancel")) {
            STREAMS.get(command.get("stream").getAsInt()).dispose();
            done(command, null);
            return;
        }
        String client = command.get("client").getAsString();
        if (name.equals("connect")) {
            HubConnection connection = build(command, client);
            CONNECTIONS.put(client, connection);
            connection.start().subscribe(() -> done(command, connection.getConnectionId()), error -> failed(command, error));
            return;
        }
        HubConnection connection = CONNECTIONS.get(client);
        String method = command.has("method") ? command.get("method").getAsString() : null;
        switch (name) {
            case "answer" -> answer(connection, command, client, method);
            case "invoke" -> invoke(connection, command, method, arguments(command));
            case "send" -> {
                connection.send(method, arguments(command).toArray());
                done(command, null);
            }
            case "stream" -> stream(connection, command, method, arguments(command));
            case "upload" -> upload(connection, command, method);
            case "state" -> done(command, Map.of("state", connection.getConnectionState().toString()));
            case "stop" -> connection.stop().subscribe(() -> done(command, null), error -> failed(command, error));
            default -> throw new IllegalArgumentException("unknown command " + name);
        }
    }

    private static HubConnection build(JsonObject command, String client) {
        boolean polls = command.has("transport") && command.get("transport").getAsString().equals("lp");
        HttpHubConnectionBuilder builder = HubConnectionBuilder.create(command.get("url").getAsString())
                .withTransport(polls ? TransportEnum.LONG_POLLING : TransportEnum.WEBSOCKETS);
        if (command.has("token")) {
            String token = command.get("token").getAsString();
            builder = builder.withAccessTokenProvider(Single.defer(() -> Single.just(token)));
        }
        HubConnection connection = builder.build();
        connection.onClosed(error -> {
            JsonObject closed = event("closed", client);
            closed.add("error", fault(error));
            tell(closed);
        });
        connection.on("ReceiveMessage", (one, two) -> message(client, "ReceiveMessage", one, two), Object.class, Object.class);
        connection.on("Fence", () -> message(client, "Fence"));
        return connection;
    }

    private static void message(String client, String method, Object... arguments) {
        JsonObject event = event("message", client);
        event.addProperty("method", method);
        event.add("args", GSON.toJsonTree(arguments));
        tell(event);
    }

    private static void answer(HubConnection connection, JsonObject command, String client, String method) {
        connection.remove(method);
        connection.onWithResult(method, question -> {
            JsonObject asked = event("asked", client);
            asked.addProperty("method", method);
            asked.add("args", GSON.toJsonTree(List.of(question)));
            tell(asked);
            if (command.has("error")) return Single.error(new RuntimeException(command.get("error").getAsString()));
            if (command.has("wait")) return Single.never();
            return Single.just(GSON.fromJson(command.get("value"), Object.class));
        }, String.class);
        done(command, null);
    }

    private static void invoke(HubConnection connection, JsonObject command, String method, List<Object> arguments) {
        // A Single cannot hold null: with this client a call whose result is null never ends, unless none is asked for.
        if (method.startsWith("Send") || NO_RESULT.contains(method)) {
            connection.invoke(method, arguments.toArray()).subscribe(() -> done(command, null), error -> failed(command, error));
        } else {
            connection.invoke(Object.class, method, arguments.toArray())
                    .subscribe(value -> done(command, value), error -> failed(command, error));
        }
    }

    private static void stream(HubConnection connection, JsonObject command, String method, List<Object> arguments) {
        int id = command.get("id").getAsInt();
        STREAMS.put(id, connection.stream(Object.class, method, arguments.toArray()).subscribe(
                item -> {
                    JsonObject event = event("stream_item");
                    event.addProperty("id", id);
                    event.add("value", GSON.toJsonTree(item));
                    tell(event);
                },
                error -> streamEnded(id, error),
                () -> streamEnded(id, null)));
    }

    private static void streamEnded(int id, Throwable error) {
        JsonObject event = event("stream_end");
        event.addProperty("id", id);
        event.add("error", fault(error));
        tell(event);
    }

    private static void upload(HubConnection connection, JsonObject command, String method) {
        List<Object> arguments = arguments(command);
        Observable<Object> items = Observable.fromIterable(list(command.getAsJsonArray("items")));
        if (command.has("fails") && !command.get("fails").isJsonNull()) {
            items = items.concatWith(Observable.error(new RuntimeException(command.get("fails").getAsString())));
        }
        arguments.add(items);
        if (command.has("stream")) stream(connection, command, method, arguments);
        else invoke(connection, command, method, arguments);
    }

    private static List<Object> arguments(JsonObject command) {
        return command.has("args") ? list(command.getAsJsonArray("args")) : new ArrayList<>();
    }

    private static List<Object> list(JsonArray values) {
        List<Object> found = new ArrayList<>();
        for (JsonElement value : values) {
            boolean whole = value.isJsonPrimitive() && value.getAsString().matches("-?\\d{1,9}")
                    && value.getAsJsonPrimitive().isNumber();
            found.add(whole ? (Object) value.getAsInt() : GSON.fromJson(value, Object.class));
        }
        return found;
    }

    private static JsonObject event(String name) {
        JsonObject event = new JsonObject();
        event.addProperty("event", name);
        return event;
    }

    private static JsonObject event(String name, String client) {
        JsonObject event = event(name);
        event.addProperty("client", client);
        return event;
    }

    private static JsonElement fault(Throwable error) {
        if (error == null) return GSON.toJsonTree(null);
        return GSON.toJsonTree(Map.of("type", error.getClass().getName(), "message", String.valueOf(error.getMessage())));
    }

    private static void done(JsonObject command, Object value) {
        JsonObject event = event("result");
        event.add("id", command.get("id"));
        event.add("value", GSON.toJsonTree(value));
        tell(event);
    }

    private static void failed(JsonObject command, Throwable error) {
        JsonObject event = event("error");
        event.add("id", command.get("id"));
        event.add("error", fault(error));
        tell(event);
    }

    private static synchronized void tell(JsonObject event) {
        OUT.println(GSON.toJson(event));
    }
}
