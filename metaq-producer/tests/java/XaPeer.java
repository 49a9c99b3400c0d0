import com.taobao.metamorphosis.Message;
import com.taobao.metamorphosis.client.MetaClientConfig;
import com.taobao.metamorphosis.client.XAMetaMessageSessionFactory;
import com.taobao.metamorphosis.client.producer.XAMessageProducer;
import com.taobao.metamorphosis.utils.ZkUtils.ZKConfig;
import java.nio.charset.StandardCharsets;
import javax.transaction.xa.XAResource;
import javax.transaction.xa.Xid;

/**
 * The real Java XA client, to prepare transactions that another finishes, or to finish those of another.
 *
 * Arguments: prepare|finish ZOOKEEPER TOPIC QUALIFIER COUNT
 */
public class XaPeer {
    public static void main(String[] args) {
        int status = 1;
        try {
            run(args);
            status = 0;
        } catch (Throwable e) {
            e.printStackTrace();
        }
        // Its threads would keep the process alive.
        Runtime.getRuntime().halt(status);
    }

    private static void run(String[] args) throws Exception {
        ZKConfig zk = new ZKConfig();
        zk.zkConnect = args[1];
        MetaClientConfig config = new MetaClientConfig();
        config.setZkConfig(zk);
        XAMessageProducer producer = new XAMetaMessageSessionFactory(config).createXAProducer();
        producer.setUniqueQualifier(args[3]);
        producer.publish(args[2]);
        int count = Integer.parseInt(args[4]);
        if (args[0].equals("prepare")) {
            for (int n = 0; n < count; n++) {
                prepare(producer, args[2], "java-" + (n % 2 == 0 ? "commit" : "rollback") + "-" + n);
            }
            return;
        }
        XAResource resource = producer.getXAResource();
        Xid[] found = resource.recover(XAResource.TMSTARTRSCAN);
        check(found.length == count, "found " + found.length);
        for (Xid xid : found) {
            String name = new String(xid.getGlobalTransactionId(), StandardCharsets.UTF_8);
            if (name.contains("commit")) {
                resource.commit(xid, false);
            } else {
                resource.rollback(xid);
            }
            // The client forgets its resource when a transaction ends.
            resource = producer.getXAResource();
        }
    }

    private static void prepare(XAMessageProducer producer, String topic, String name) throws Exception {
        Xid xid = new Id(name);
        XAResource resource = producer.getXAResource();
        resource.start(xid, XAResource.TMNOFLAGS);
        Message message = new Message(topic, name.getBytes(StandardCharsets.UTF_8));
        check(producer.sendMessage(message).isSuccess(), "a message is taken");
        resource.end(xid, XAResource.TMSUCCESS);
        check(resource.prepare(xid) == XAResource.XA_OK, "it is prepared");
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new IllegalStateException(what);
        }
    }

    private static final class Id implements Xid {
        private final String name;

        Id(String name) {
            this.name = name;
        }

        @Override
        public int getFormatId() {
            return 7;
        }

        @Override
        public byte[] getGlobalTransactionId() {
            return name.getBytes(StandardCharsets.UTF_8);
        }

        @Override
        public byte[] getBranchQualifier() {
            return new byte[] {(byte) 0xff, 0};
        }
    }
}
