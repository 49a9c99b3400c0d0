import com.taobao.metamorphosis.Message;
import com.taobao.metamorphosis.client.MetaClientConfig;
import com.taobao.metamorphosis.client.MetaMessageSessionFactory;
import com.taobao.metamorphosis.client.StatsResult;
import com.taobao.metamorphosis.client.XAMetaMessageSessionFactory;
import com.taobao.metamorphosis.client.consumer.ConsumerConfig;
import com.taobao.metamorphosis.client.consumer.MessageConsumer;
import com.taobao.metamorphosis.client.consumer.MessageListener;
import com.taobao.metamorphosis.client.producer.MessageProducer;
import com.taobao.metamorphosis.client.producer.SendMessageCallback;
import com.taobao.metamorphosis.client.producer.SendResult;
import com.taobao.metamorphosis.client.producer.XAMessageProducer;
import com.taobao.metamorphosis.exception.MetaClientException;
import com.taobao.metamorphosis.utils.ZkUtils.ZKConfig;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import javax.transaction.xa.XAException;
import javax.transaction.xa.XAResource;
import javax.transaction.xa.Xid;

/**
 * Does with a broker what programs do with the real Java client, and fails when anything is not as it should be.
 *
 * Arguments: direct HOST:PORT TOPIC PARTITIONS, or registry ZOOKEEPER ROOT TOPIC PARTITIONS
 */
public class Acceptance {
    private static final long PATIENCE_MS = 30_000;

    private final String topic;
    private final int partitions;
    /** What has to be there in the end: attribute and payload. */
    private final List<String> stored = Collections.synchronizedList(new ArrayList<>());
    private int count;

    private Acceptance(String topic, int partitions) {
        this.topic = topic;
        this.partitions = partitions;
    }

    public static void main(String[] args) {
        int status = 1;
        try {
            if (args[0].equals("direct")) {
                direct(args[1], new Acceptance(args[2], Integer.parseInt(args[3])));
            } else {
                registry(args[1], args[2], new Acceptance(args[3], Integer.parseInt(args[4])));
            }
            System.out.println("accepted");
            status = 0;
        } catch (Throwable e) {
            e.printStackTrace();
        }
        // Not by an exit, at which the client logs much. Its threads would keep the process alive.
        Runtime.getRuntime().halt(status);
    }

    private static void direct(String address, Acceptance test) throws Exception {
        MetaClientConfig config = new MetaClientConfig();
        config.setServerUrl("meta://" + address);
        MetaMessageSessionFactory factory = new MetaMessageSessionFactory(config);
        MessageProducer producer = factory.createProducer();
        producer.publish(test.topic);
        test.sends(producer);
        test.callbacks(producer);
        String[] parts = address.split(":");
        test.statistics(factory, new InetSocketAddress(parts[0], Integer.parseInt(parts[1])));
    }

    private static void registry(String zookeeper, String root, Acceptance test) throws Exception {
        MetaMessageSessionFactory factory = new MetaMessageSessionFactory(config(zookeeper, root));
        check(factory.getPartitionsForTopic(test.topic).size() == test.partitions, "the partitions are found");
        MessageProducer producer = factory.createProducer();
        producer.publish(test.topic);
        test.sends(producer);
        test.callbacks(producer);
        InetSocketAddress broker = factory.getStats().keySet().iterator().next();
        test.statistics(factory, broker);
        test.localTransactions(producer);
        test.xaTransactions(zookeeper, root);
        test.consume(factory);
        factory.shutdown();
    }

    private static MetaClientConfig config(String zookeeper, String root) {
        ZKConfig zk = new ZKConfig();
        zk.zkConnect = zookeeper;
        zk.zkRoot = root;
        MetaClientConfig config = new MetaClientConfig();
        config.setZkConfig(zk);
        return config;
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new IllegalStateException("not true: " + what);
        }
    }

    private Message message(String attribute) {
        byte[] payload = ("payload \u8f7d " + count++).getBytes(StandardCharsets.UTF_8);
        return attribute == null ? new Message(topic, payload) : new Message(topic, payload, attribute);
    }

    private static String text(Message message) {
        String attribute = message.hasAttribute() ? "[" + message.getAttribute() + "]" : "none";
        return attribute + " " + Arrays.toString(message.getData());
    }

    private void sends(MessageProducer producer) throws Exception {
        List<Integer> used = new ArrayList<>();
        for (String attribute : new String[] {null, "", "attr", "k\u00e4se \u829d\u58eb", null, null}) {
            Message message = message(attribute);
            SendResult result = producer.sendMessage(message);
            check(result.isSuccess(), "a message is stored: " + result.getErrorMessage());
            check(result.getOffset() >= 0, "an offset is told");
            check(message.getId() != 0, "an id is told");
            used.add(result.getPartition().getPartition());
            stored.add(text(message));
        }
        check(used.stream().allMatch(index -> index >= 0 && index < partitions), "partitions are those of the topic");
        Message large = new Message(topic, new byte[900_000]);
        check(producer.sendMessage(large).isSuccess(), "a large message is stored");
        stored.add(text(large));
        Message empty = new Message(topic, new byte[0]);
        check(producer.sendMessage(empty).isSuccess(), "an empty message is stored");
        stored.add(text(empty));
    }

    private void callbacks(MessageProducer producer) throws Exception {
        int messages = 200;
        CountDownLatch open = new CountDownLatch(messages);
        AtomicReference<String> failure = new AtomicReference<>();
        for (int i = 0; i < messages; i++) {
            Message message = message(i % 3 == 0 ? "callback" : null);
            stored.add(text(message));
            producer.sendMessage(message, new SendMessageCallback() {
                @Override
                public void onMessageSent(SendResult result) {
                    if (!result.isSuccess()) {
                        failure.set(result.getErrorMessage());
                    }
                    open.countDown();
                }

                @Override
                public void onException(Throwable e) {
                    failure.set(String.valueOf(e));
                    open.countDown();
                }
            });
        }
        check(open.await(PATIENCE_MS, TimeUnit.MILLISECONDS), "every callback comes");
        check(failure.get() == null, "callbacks succeed: " + failure.get());
    }

    private void statistics(MetaMessageSessionFactory factory, InetSocketAddress broker) throws Exception {
        StatsResult all = factory.getStats(broker);
        check("0.1".equals(all.getValue("version")), "the version is told: " + all);
        check(String.valueOf(broker.getPort()).equals(all.getValue("port")), "the port is told: " + all);
        check(Long.parseLong(all.getValue("cmd_put")) >= stored.size(), "puts are counted: " + all);
        check(Long.parseLong(all.getValue("uptime")) >= 0, "the time is told: " + all);
        StatsResult one = factory.getStats(broker, topic);
        check("0".equals(one.getValue("resultCode")), "the topic is known: " + one);
        check(Long.parseLong(one.getValue("message_count")) == stored.size(), "messages are counted: " + one);
        String topics = factory.getStats(broker, "topics").getValue(topic);
        check(topics.startsWith("partitions "), "the topics are told: " + topics);
        check("1".equals(factory.getStats(broker, "no-such-topic").getValue("resultCode")), "others are not known");
        check(factory.getStats(broker, "help").getValue("topics") != null, "help is given");
    }

    private void localTransactions(MessageProducer producer) throws Exception {
        // Committed, also messages to more than one partition.
        producer.beginTransaction();
        for (int i = 0; i < 5; i++) {
            Message message = message(i == 0 ? "local" : null);
            SendResult result = producer.sendMessage(message);
            check(result.isSuccess() && result.getOffset() == -1, "there is no offset in a transaction");
            stored.add(text(message));
        }
        producer.commit();
        // Rolled back.
        producer.beginTransaction();
        check(producer.sendMessage(message("rolled back")).isSuccess(), "a message is taken");
        producer.rollback();
        // Not ended in time.
        producer.setTransactionTimeout(1);
        producer.beginTransaction();
        check(producer.sendMessage(message("too late")).isSuccess(), "a message is taken");
        Thread.sleep(2_500);
        try {
            producer.commit();
            throw new IllegalStateException("a commit after the timeout succeeded");
        } catch (MetaClientException e) {
            check(String.valueOf(e).contains("has not been started"), "the reason is told: " + e);
        }
        producer.setTransactionTimeout(0);
        // And plain again.
        Message message = message(null);
        check(producer.sendMessage(message).getOffset() >= 0, "the transaction is over");
        stored.add(text(message));
    }

    private void xaTransactions(String zookeeper, String root) throws Exception {
        XAMetaMessageSessionFactory factory = new XAMetaMessageSessionFactory(config(zookeeper, root));
        XAMessageProducer producer = factory.createXAProducer();
        producer.publish(topic);
        // The client forgets a resource when its transaction ends: what is sent after that is in none.
        Xid both = new Id(1);
        XAResource resource = put(producer, both, "two phases", true);
        check(resource.prepare(both) == XAResource.XA_OK, "two phases: it is prepared");
        resource.commit(both, false);
        Xid one = new Id(2);
        put(producer, one, "one phase", true).commit(one, true);
        Xid back = new Id(3);
        put(producer, back, "rolled back", false).rollback(back);
        Xid preparedAndBack = new Id(4);
        resource = put(producer, preparedAndBack, "prepared and rolled back", false);
        check(resource.prepare(preparedAndBack) == XAResource.XA_OK, "rolled back: it is prepared");
        resource.rollback(preparedAndBack);
        Xid empty = new Id(5);
        resource = producer.getXAResource();
        resource.start(empty, XAResource.TMNOFLAGS);
        resource.end(empty, XAResource.TMSUCCESS);
        check(resource.prepare(empty) == XAResource.XA_RDONLY, "an empty one is read-only");

        XAResource any = resource;
        refused(XAException.XAER_NOTA, () -> any.commit(new Id(99), false));
        refused(XAException.XAER_NOTA, () -> any.commit(both, false));
        Xid unprepared = new Id(6);
        XAResource other = put(producer, unprepared, "unprepared", false);
        refused(XAException.XAER_PROTO, () -> other.commit(unprepared, false));
        other.rollback(unprepared);

        // Prepared, and found by another process that has the same qualifier.
        Xid orphan = new Id(7);
        check(put(producer, orphan, "recovered", true).prepare(orphan) == XAResource.XA_OK, "orphan: it is prepared");
        XAMetaMessageSessionFactory second = new XAMetaMessageSessionFactory(config(zookeeper, root));
        XAMessageProducer heir = second.createXAProducer();
        heir.publish(topic);
        XAResource inherited = heir.getXAResource();
        Xid[] found = inherited.recover(XAResource.TMSTARTRSCAN);
        check(found.length == 1 && Arrays.equals(found[0].getGlobalTransactionId(), orphan.getGlobalTransactionId())
                && Arrays.equals(found[0].getBranchQualifier(), orphan.getBranchQualifier())
                && found[0].getFormatId() == orphan.getFormatId(), "the prepared one is recovered: " + found.length);
        inherited.commit(found[0], false);
        check(inherited.recover(XAResource.TMSTARTRSCAN).length == 0, "nothing is left to recover");
        inherited.forget(orphan);
    }

    private XAResource put(XAMessageProducer producer, Xid xid, String attribute, boolean stays) throws Exception {
        XAResource resource = producer.getXAResource();
        resource.start(xid, XAResource.TMNOFLAGS);
        for (int i = 0; i < 2; i++) {
            Message message = message(attribute);
            check(producer.sendMessage(message).isSuccess(), "a message is taken");
            if (stays) {
                stored.add(text(message));
            }
        }
        resource.end(xid, XAResource.TMSUCCESS);
        return resource;
    }

    private interface Step {
        void run() throws XAException;
    }

    private static void refused(int code, Step step) {
        try {
            step.run();
        } catch (XAException e) {
            check(e.errorCode == code, "the code is " + code + ", not " + e.errorCode + ": " + e.getMessage());
            return;
        }
        throw new IllegalStateException("what had to be refused succeeded");
    }

    private void consume(MetaMessageSessionFactory factory) throws Exception {
        List<String> read = Collections.synchronizedList(new ArrayList<>());
        ConsumerConfig config = new ConsumerConfig("acceptance");
        config.setMaxDelayFetchTimeInMills(100);
        MessageConsumer consumer = factory.createConsumer(config);
        consumer.subscribe(topic, 1024 * 1024, new MessageListener() {
            @Override
            public void recieveMessages(Message message) {
                read.add(text(message));
            }

            @Override
            public Executor getExecutor() {
                return null;
            }
        });
        consumer.completeSubscribe();
        long deadline = System.currentTimeMillis() + PATIENCE_MS;
        while (read.size() < stored.size() && System.currentTimeMillis() < deadline) {
            Thread.sleep(50);
        }
        // What may not be there has its time to show.
        Thread.sleep(500);
        List<String> expected = new ArrayList<>(stored);
        List<String> found = new ArrayList<>(read);
        Collections.sort(expected);
        Collections.sort(found);
        check(found.equals(expected), found.size() + " messages were consumed, " + expected.size() + " were sent");
        consumer.shutdown();
    }

    /** A transaction of a test's own. */
    private static final class Id implements Xid {
        private final byte number;

        private Id(int number) {
            this.number = (byte) number;
        }

        @Override
        public int getFormatId() {
            return 100;
        }

        @Override
        public byte[] getGlobalTransactionId() {
            return new byte[] {1, number};
        }

        @Override
        public byte[] getBranchQualifier() {
            return new byte[] {(byte) 0xff, number};
        }
    }
}
