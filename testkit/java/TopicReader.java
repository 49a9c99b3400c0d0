import com.taobao.metamorphosis.Message;
import com.taobao.metamorphosis.client.MetaClientConfig;
import com.taobao.metamorphosis.client.MetaMessageSessionFactory;
import com.taobao.metamorphosis.client.consumer.ConsumerConfig;
import com.taobao.metamorphosis.client.consumer.MessageConsumer;
import com.taobao.metamorphosis.cluster.Partition;
import com.taobao.metamorphosis.consumer.MessageIterator;
import com.taobao.metamorphosis.utils.ZkUtils.ZKConfig;
import java.io.BufferedOutputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;

/**
 * Reads a topic from its beginning through the real Java client and prints its messages, one a line:
 * partition, offset, id, attribute, payload; the last two in hexadecimal, "-" for no attribute. Ends once it has read
 * as many as were expected and nothing more has come for a while, or when the time is up. Fails when a partition
 * could not be read on at the end.
 *
 * Arguments: ZOOKEEPER ROOT TOPIC EXPECTED SETTLE_MS DEADLINE_MS OUTPUT_FILE
 */
public class TopicReader {
    /** More than a broker with the shipped settings returns at once. */
    private static final int FETCH_SIZE = 2 * 1024 * 1024;

    private final MessageConsumer consumer;
    private final String topic;
    private final PrintStream out;
    private final Map<Partition, Long> offsets = new HashMap<>();
    /** What kept a partition from being read on when it was tried last. */
    private final Map<Partition, Exception> obstacles = new HashMap<>();

    private TopicReader(MessageConsumer consumer, String topic, PrintStream out) {
        this.consumer = consumer;
        this.topic = topic;
        this.out = out;
    }

    public static void main(String[] args) {
        int status = 1;
        try {
            status = run(args) ? 0 : 1;
        } catch (Throwable e) {
            e.printStackTrace();
        }
        // The client's threads would keep the process alive.
        System.exit(status);
    }

    private static boolean run(String[] args) throws Exception {
        String topic = args[2];
        long expected = Long.parseLong(args[3]);
        long settle = Long.parseLong(args[4]) * 1_000_000;
        long deadline = System.nanoTime() + Long.parseLong(args[5]) * 1_000_000;

        ZKConfig zk = new ZKConfig();
        zk.zkConnect = args[0];
        zk.zkRoot = args[1];
        MetaClientConfig config = new MetaClientConfig();
        config.setZkConfig(zk);
        MetaMessageSessionFactory factory = new MetaMessageSessionFactory(config);
        MessageConsumer consumer = factory.createConsumer(new ConsumerConfig("topic-reader"));
        // Not the standard output, to which the client's logging writes.
        try (PrintStream out = open(args[6])) {
            TopicReader reader = new TopicReader(consumer, topic, out);
            List<Partition> partitions = factory.getPartitionsForTopic(topic);
            long read = 0;
            long lastNews = System.nanoTime();
            while (System.nanoTime() - deadline < 0 && (read < expected || System.nanoTime() - lastNews < settle)) {
                long before = read;
                for (Partition partition : partitions) {
                    read += reader.read(partition);
                }
                if (read > before || !reader.obstacles.isEmpty()) {
                    lastNews = System.nanoTime();
                }
                if (read == before) {
                    Thread.sleep(10);
                }
            }
            for (Map.Entry<Partition, Exception> obstacle : reader.obstacles.entrySet()) {
                System.err.println("Partition " + obstacle.getKey() + " can't be read on:");
                obstacle.getValue().printStackTrace();
            }
            return reader.obstacles.isEmpty() && !out.checkError();
        }
    }

    private static PrintStream open(String path) throws IOException {
        return new PrintStream(new BufferedOutputStream(new FileOutputStream(path), 1 << 16), false, "US-ASCII");
    }

    /** Reads on in a partition; returns how many messages that gave. */
    private long read(Partition partition) {
        long start = offsets.getOrDefault(partition, 0L);
        obstacles.remove(partition);
        long count = 0;
        int at = 0;
        try {
            MessageIterator messages = consumer.get(topic, partition, start, FETCH_SIZE);
            if (messages == null) {
                return 0;
            }
            while (messages.hasNext()) {
                Message message = messages.next();
                String attribute = message.hasAttribute() ? hex(message.getAttribute().getBytes("UTF-8")) : "-";
                out.println(partition + " " + (start + at) + " " + message.getId() + " " + attribute + " "
                        + hex(message.getData()));
                at = messages.getOffset();
                count++;
            }
            if (count == 0 && messages.getDataLength() > 0) {
                throw new IllegalStateException("The broker returns only " + messages.getDataLength()
                        + " bytes of the message at " + start);
            }
        } catch (Exception e) {
            obstacles.put(partition, e);
        }
        offsets.put(partition, start + at);
        return count;
    }

    private static String hex(byte[] bytes) {
        return HexFormat.of().formatHex(bytes);
    }
}
