import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.InetAddress;
import java.net.MulticastSocket;

/** Announces a world, and lists announced ones, with the calls that Minecraft makes. */
public class LanWorld {
    @SuppressWarnings("deprecation")
    public static void main(String[] args) throws Exception {
        InetAddress group = InetAddress.getByName("224.0.2.60");
        if (args[0].equals("announce")) {
            DatagramSocket socket = new DatagramSocket();
            byte[] text = ("[MOTD]" + args[1] + "[/MOTD][AD]25565[/AD]").getBytes();
            for (;; Thread.sleep(1500)) socket.send(new DatagramPacket(text, text.length, group, 4445));
        }
        MulticastSocket socket = new MulticastSocket(4445);
        socket.joinGroup(group);
        System.out.println("listening");
        for (;;) {
            DatagramPacket packet = new DatagramPacket(new byte[1024], 1024);
            socket.receive(packet);
            String text = new String(packet.getData(), 0, packet.getLength());
            System.out.println("heard " + packet.getAddress().getHostAddress() + " " + text);
        }
    }
}
