import com.sun.tools.attach.VirtualMachine;
import javax.management.MBeanServerConnection;
import javax.management.ObjectName;
import javax.management.remote.JMXConnectorFactory;
import javax.management.remote.JMXServiceURL;

/**
 * Decides on a prepared transaction of a running Java broker as an operator does by JMX.
 *
 * Arguments: PID KEY DECISION, any number of the last two; a decision is commit, rollback or complete.
 */
public class XaOperator {
    public static void main(String[] args) throws Exception {
        VirtualMachine machine = VirtualMachine.attach(args[0]);
        JMXServiceURL url = new JMXServiceURL(machine.startLocalManagementAgent());
        machine.detach();
        MBeanServerConnection broker = JMXConnectorFactory.connect(url).getMBeanServerConnection();
        ObjectName name = null;
        for (ObjectName found : broker.queryNames(null, null)) {
            if (found.toString().contains("TransactionalCommandProcessor")) {
                name = found;
            }
        }
        for (int at = 1; at < args.length; at += 2) {
            decide(broker, name, args[at], args[at + 1]);
        }
        System.exit(0);
    }

    private static void decide(MBeanServerConnection broker, ObjectName name, String key, String decision)
            throws Exception {
        String text = "java.lang.String";
        if (decision.equals("commit")) {
            broker.invoke(name, "commitTransactionHeuristically", new Object[] {key, false},
                    new String[] {text, "boolean"});
        } else {
            broker.invoke(name, decision + "TransactionHeuristically", new Object[] {key}, new String[] {text});
        }
    }
}
