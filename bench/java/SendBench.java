import com.sun.management.OperatingSystemMXBean;
import com.sun.management.ThreadMXBean;
import com.taobao.metamorphosis.Message;
import com.taobao.metamorphosis.client.MetaClientConfig;
import com.taobao.metamorphosis.client.MetaMessageSessionFactory;
import com.taobao.metamorphosis.client.producer.MessageProducer;
import com.taobao.metamorphosis.client.producer.SendMessageCallback;
import com.taobao.metamorphosis.client.producer.SendResult;
import com.taobao.metamorphosis.utils.ZkUtils.ZKConfig;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Sends messages through the real Java client, by callbacks, with so many in flight all the time, and measures it as
 * `metaq bench` does. Each line of the input is a number of messages; when they have been sent, the figures are printed as
 * one line of JSON, with the keys of `metaq bench` and the bytes that were allocated for a message. Ends with its input.
 *
 * Arguments: ZOOKEEPER ROOT TOPIC SIZE IN_FLIGHT
 */
public class SendBench {
    private static final long TIMEOUT_MS = 10_000;

    private final MessageProducer producer;
    private final String topic;
    private final byte[] payload;
    private final int inFlight;

    private SendBench(MessageProducer producer, String topic, int size, int inFlight) {
        this.producer = producer;
        this.topic = topic;
        this.payload = new byte[size];
        this.inFlight = inFlight;
        Arrays.fill(payload, (byte) 'x');
    }

    public static void main(String[] args) {
        int status = 0;
        try {
            // The client's logging writes to the standard output.
            PrintStream out = System.out;
            System.setOut(System.err);
            run(args, out);
        } catch (Throwable e) {
            e.printStackTrace();
            status = 1;
        }
        // The client's threads would keep the process alive.
        System.exit(status);
    }

    private static void run(String[] args, PrintStream out) throws Exception {
        ZKConfig zk = new ZKConfig();
        zk.zkConnect = args[0];
        zk.zkRoot = args[1];
        MetaClientConfig config = new MetaClientConfig();
        config.setZkConfig(zk);
        MessageProducer producer = new MetaMessageSessionFactory(config).createProducer();
        producer.publish(args[2]);
        SendBench bench = new SendBench(producer, args[2], Integer.parseInt(args[3]), Integer.parseInt(args[4]));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            out.println(bench.round(Integer.parseInt(line.trim())));
            out.flush();
        }
    }

    private String round(int messages) throws Exception {
        long[] latencies = new long[messages];
        Semaphore permits = new Semaphore(inFlight);
        AtomicLong failures = new AtomicLong();
        long allocated = allocatedBytes();
        long cpu = cpuNanos();
        long begun = System.nanoTime();
        for (int n = 0; n < messages; n++) {
            permits.acquire();
            Message message = new Message(topic, payload);
            Callback callback = new Callback(permits, failures, latencies, n);
            producer.sendMessage(message, callback, TIMEOUT_MS, TimeUnit.MILLISECONDS);
        }
        permits.acquire(inFlight);
        double elapsed = (System.nanoTime() - begun) / 1e9;
        double cpuMicros = (cpuNanos() - cpu) / 1e3 / messages;
        double bytes = (allocatedBytes() - allocated) / (double) messages;
        // What has failed has no latency, and lies at the front.
        Arrays.sort(latencies);
        int failed = (int) failures.get();
        return String.format(Locale.ROOT,
                "{\"messages\":%d,\"elapsed_s\":%f,\"msgs_per_s\":%f,\"p50_us\":%f,\"p99_us\":%f,\"p999_us\":%f,"
                        + "\"cpu_us_per_msg\":%f,\"max_rss_kib\":%d,\"failures\":%d,\"alloc_bytes_per_msg\":%f}",
                messages, elapsed, (messages - failed) / elapsed, quantile(latencies, failed, 0.5),
                quantile(latencies, failed, 0.99), quantile(latencies, failed, 0.999), cpuMicros, peakMemoryKib(),
                failed, bytes);
    }

    private static double quantile(long[] sorted, int from, double quantile) {
        int count = sorted.length - from;
        if (count == 0) {
            return 0;
        }
        int index = (int) Math.ceil(quantile * count) - 1;
        return sorted[from + Math.max(index, 0)] / 1e3;
    }

    private static long cpuNanos() {
        return ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
    }

    /** By all threads that live. */
    private static long allocatedBytes() {
        ThreadMXBean threads = (ThreadMXBean) ManagementFactory.getThreadMXBean();
        long sum = 0;
        for (long bytes : threads.getThreadAllocatedBytes(threads.getAllThreadIds())) {
            sum += Math.max(bytes, 0);
        }
        return sum;
    }

    private static long peakMemoryKib() throws IOException {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmHWM:")) {
                return Long.parseLong(line.replaceAll("\\D", ""));
            }
        }
        return 0;
    }

    private static final class Callback implements SendMessageCallback {
        private final Semaphore permits;
        private final AtomicLong failures;
        private final long[] latencies;
        private final int index;
        private final long sent = System.nanoTime();

        Callback(Semaphore permits, AtomicLong failures, long[] latencies, int index) {
            this.permits = permits;
            this.failures = failures;
            this.latencies = latencies;
            this.index = index;
        }

        @Override
        public void onMessageSent(SendResult result) {
            if (result.isSuccess()) {
                latencies[index] = System.nanoTime() - sent;
            } else if (failures.getAndIncrement() == 0) {
                System.err.println("A message was refused: " + result.getErrorMessage());
            }
            permits.release();
        }

        @Override
        public void onException(Throwable e) {
            if (failures.getAndIncrement() == 0) {
                System.err.println("A message failed: " + e);
            }
            permits.release();
        }
    }
}
