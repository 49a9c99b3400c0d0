import com.sun.tools.attach.VirtualMachine;
import javax.management.MBeanServerConnection;
import javax.management.ObjectName;
import javax.management.remote.JMXConnectorFactory;
import javax.management.remote.JMXServiceURL;

/**
 * Does to a running Java broker what an operator does by JMX: closes or opens partitions of a topic.
 *
 * Arguments: PID close TOPIC FIRST LAST, or PID open TOPIC
 */
public class Operator {
    public static void main(String[] args) throws Exception {
        VirtualMachine machine = VirtualMachine.attach(args[0]);
        JMXServiceURL url = new JMXServiceURL(machine.startLocalManagementAgent());
        machine.detach();
        MBeanServerConnection broker = JMXConnectorFactory.connect(url).getMBeanServerConnection();
        ObjectName config = broker.queryNames(new ObjectName("*:type=MetaConfig,*"), null).iterator().next();
        if (args[1].equals("close")) {
            Object[] values = {args[2], Integer.parseInt(args[3]), Integer.parseInt(args[4])};
            broker.invoke(config, "closePartitions", values, new String[] {"java.lang.String", "int", "int"});
        } else {
            broker.invoke(config, "openPartitions", new Object[] {args[2]}, new String[] {"java.lang.String"});
        }
        System.exit(0);
    }
}
