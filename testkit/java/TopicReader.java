import com.taobao.metamorphosis.Message;
import com.taobao.metamorphosis.client.MetaClientConfig;
import com.taobao.metamorphosis.client.MetaMessageSessionFactory;
import com.taobao.metamorphosis.client.consumer.ConsumerConfig;
import com.taobao.metamorphosis.client.consumer.MessageConsumer;
import com.taobao.metamorphosis.cluster.Partition;
import com.taobao.metamorphosis.consumer.MessageIterator;
import com.taobao.metamorphosis.utils.ZkUtils.ZKConfig;
import java.io.BufferedOutputStream;
import java.io.PrintStream;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;

/**
 * Reads a topic from its beginning through the real Java client and prints its messages, one a line:
 * partition, offset, id, attribute, payload; the last two in hexadecimal, "-" for no attribute. Ends once it has read
 * as many as were expected and nothing more has come for a while, or when the time is up.
 *
 * Arguments: ZOOKEEPER ROOT TOPIC EXPECTED SETTLE_MS DEADLINE_MS
 */
public class TopicReader {
    /** More than a broker with the shipped settings returns at once. */
    private static final int FETCH_SIZE = 2 * 1024 * 1024;

    public static void main(String[] args) throws Exception {
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
        PrintStream out = new PrintStream(new BufferedOutputStream(System.out, 1 << 16), false, "US-ASCII");

        List<Partition> partitions = factory.getPartitionsForTopic(topic);
        Map<Partition, Long> offsets = new HashMap<>();
        long read = 0;
        long lastNews = System.nanoTime();
        while (System.nanoTime() < deadline && (read < expected || System.nanoTime() < lastNews + settle)) {
            long before = read;
            for (Partition partition : partitions) {
                read += read(consumer, topic, partition, offsets, out);
            }
            if (read > before) {
                lastNews = System.nanoTime();
            } else {
                Thread.sleep(10);
            }
        }
        out.flush();
        System.exit(out.checkError() ? 1 : 0);
    }

    private static long read(MessageConsumer consumer, String topic, Partition partition, Map<Partition, Long> offsets,
            PrintStream out) throws Exception {
        long start = offsets.getOrDefault(partition, 0L);
        MessageIterator messages = consumer.get(topic, partition, start, FETCH_SIZE);
        if (messages == null) {
            return 0;
        }
        long count = 0;
        int at = 0;
        while (messages.hasNext()) {
            Message message = messages.next();
            String attribute = message.hasAttribute() ? hex(message.getAttribute().getBytes("UTF-8")) : "-";
            out.println(partition + " " + (start + at) + " " + message.getId() + " " + attribute + " "
                    + hex(message.getData()));
            at = messages.getOffset();
            count++;
        }
        offsets.put(partition, start + at);
        return count;
    }

    private static String hex(byte[] bytes) {
        return HexFormat.of().formatHex(bytes);
    }
}
