import com.taobao.metamorphosis.Message;
import com.taobao.metamorphosis.client.MetaClientConfig;
import com.taobao.metamorphosis.client.extension.AsyncMetaMessageSessionFactory;
import com.taobao.metamorphosis.client.extension.OrderedMetaMessageSessionFactory;
import com.taobao.metamorphosis.client.extension.producer.AsyncMessageProducer;
import com.taobao.metamorphosis.client.extension.producer.OrderedMessagePartitionSelector;
import com.taobao.metamorphosis.client.producer.MessageProducer;
import com.taobao.metamorphosis.client.producer.SendResult;
import com.taobao.metamorphosis.cluster.Partition;
import com.taobao.metamorphosis.exception.MetaClientException;
import com.taobao.metamorphosis.utils.ZkUtils.ZKConfig;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.List;
import java.util.Properties;

/**
 * A program that sends through the real Java extension client, which keeps messages on disk that can't be sent.
 *
 * Each line of its input is a message: its attribute, by which its partition is chosen, and its payload. The line
 * "end" ends the program in order, "unregistered" waits until the client knows no broker of the topic. What
 * became of each is a line of the output that begins with "said: ".
 *
 * Arguments: ordered ZOOKEEPER TOPIC FOLDER PARTITIONS, or async ZOOKEEPER TOPIC FOLDER
 */
public class ExtensionClient {
    /** The pause before a message that was refused is sent again, and between two looks. */
    private static final long PAUSE_MS = 20;

    public static void main(String[] args) {
        int status = 1;
        try {
            // They are read when the classes of the client are loaded.
            System.setProperty("meta.localmessage.path", args[3]);
            System.setProperty("meta.async.storage.path", args[3]);
            if (args[0].equals("ordered")) {
                ordered(args);
            } else {
                async(args);
            }
            status = 0;
        } catch (Throwable e) {
            e.printStackTrace();
        }
        // The client's threads would keep the process alive.
        System.exit(status);
    }

    private static MetaClientConfig config(String zookeeper) {
        ZKConfig zk = new ZKConfig();
        zk.zkConnect = zookeeper;
        zk.zkRoot = "/meta";
        MetaClientConfig config = new MetaClientConfig();
        config.setZkConfig(zk);
        config.setRecoverMessageIntervalInMills(500);
        return config;
    }

    private static void ordered(String[] args) throws Exception {
        String topic = args[2];
        MetaClientConfig config = config(args[1]);
        Properties partitions = new Properties();
        partitions.setProperty("topic.num." + topic, args[4]);
        config.setPartitionsInfo(partitions);
        OrderedMetaMessageSessionFactory factory = new OrderedMetaMessageSessionFactory(config);
        MessageProducer producer = factory.createProducer(new OrderedMessagePartitionSelector() {
            @Override
            protected Partition choosePartition(String topic, List<Partition> partitions, Message message) {
                return partitions.get(Math.abs(message.getAttribute().hashCode() % partitions.size()));
            }
        });
        producer.publish(topic);
        say("ready");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line = lines.readLine(); line != null && !line.equals("end"); line = lines.readLine()) {
            String[] words = line.split(" ", 2);
            Message message = new Message(topic, words[1].getBytes("UTF-8"), words[0]);
            SendResult result = sendUntilTaken(producer, message);
            String outcome = result.getOffset() < 0 ? "kept" : "stored";
            say(words[1] + " " + outcome + " " + result.getPartition());
        }
        producer.shutdown();
        factory.shutdown();
        say("ended");
    }

    private static SendResult sendUntilTaken(MessageProducer producer, Message message) throws InterruptedException {
        while (true) {
            try {
                SendResult result = producer.sendMessage(message);
                if (result.isSuccess()) {
                    return result;
                }
                System.out.println("refused: " + result.getErrorMessage());
            } catch (MetaClientException e) {
                System.out.println("failed: " + e);
            }
            Thread.sleep(PAUSE_MS);
        }
    }

    private static void async(String[] args) throws Exception {
        String topic = args[2];
        AsyncMetaMessageSessionFactory factory = new AsyncMetaMessageSessionFactory(config(args[1]));
        AsyncMessageProducer producer = factory.createAsyncProducer();
        producer.publish(topic);
        say("ready");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line = lines.readLine(); line != null && !line.equals("end"); line = lines.readLine()) {
            if (line.equals("unregistered")) {
                waitUntilUnregistered(producer, topic);
                say("unregistered");
            } else {
                String[] words = line.split(" ", 2);
                producer.asyncSendMessage(new Message(topic, words[1].getBytes("UTF-8"), words[0]));
                say(words[1] + " offered");
            }
        }
        producer.shutdown();
        factory.shutdown();
        say("ended");
    }

    /** Only sending shows what the client knows: it fails once no partition is left. */
    private static void waitUntilUnregistered(MessageProducer producer, String topic) throws InterruptedException {
        while (true) {
            try {
                producer.sendMessage(new Message(topic, "probe".getBytes()));
                Thread.sleep(PAUSE_MS);
            } catch (MetaClientException e) {
                if (e.getMessage().contains("There is no aviable partition")) {
                    return;
                }
                System.out.println("failed: " + e);
            }
        }
    }

    private static void say(String text) {
        System.out.println("said: " + text);
        System.out.flush();
    }
}
