<?php
// The incident's own worker: it reserves jobs from beanstalkd and looks them up in MariaDB, with mysqlnd through PDO.
// php worker.php BEANSTALKD_HOST MARIADB_HOST. One JSON object a line: that it is connected, then one for each job.

[, $queue_host, $database_host] = $argv;

function say(array $words): void
{
    fwrite(STDOUT, json_encode($words) . "\n");
}

function ask($queue, string $command): string
{
    fwrite($queue, $command . "\r\n");
    $reply = fgets($queue);
    return $reply === false ? exit("the queue is gone\n") : rtrim($reply);
}

$queue = stream_socket_client("tcp://$queue_host:11300", $errno, $error, 60);
$database = new PDO("mysql:host=$database_host;port=3306;dbname=lab", 'app', 'lab-only', [
    PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION,
]);
say(['connected' => true, 'pid' => getmypid()]);

while (true) {
    // Asking every second keeps the queue's own session alive: it is MariaDB's that falls silent.
    $reply = ask($queue, 'reserve-with-timeout 1');
    if (!str_starts_with($reply, 'RESERVED ')) {
        continue;
    }
    [, $id, $size] = explode(' ', $reply);
    $job = substr(stream_get_contents($queue, (int) $size + 2), 0, (int) $size);
    $began = microtime(true);
    try {
        $query = $database->prepare('SELECT q FROM jobs WHERE id = ?');
        $query->execute([(int) $job]);
        $result = ['ok' => true, 'q' => $query->fetchColumn(), 'error' => null];
    } catch (PDOException $exception) {
        $result = ['ok' => false, 'q' => null, 'error' => $exception->getMessage()];
    }
    say(['job' => (int) $id, 'seconds' => microtime(true) - $began] + $result);
    ask($queue, "delete $id");
}
