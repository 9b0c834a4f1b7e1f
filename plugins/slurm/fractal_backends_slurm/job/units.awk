# Runs the units of an array task one after the other. POSIX awk, because its system() tells an exit code from a
# signal, which $? of a shell does not. Arguments: the shell program for a unit, the file of labels, first and last
# line of it, whether this awk is known to tell signals, the receipt, the node's name. Notes when the node was
# started, and prints how the last unit ended: its label, exit code, signal, clock ticks of processor time, peak
# memory, processes that the kernel ended for want of memory.

# Clock ticks of processor time that the units used so far.
function used(    line, field) {
    getline line <"/proc/self/stat"
    close("/proc/self/stat")
    sub(/.*\) /, "", line)
    split(line, field, " ")
    return field[14] + field[15]
}

# A number that the kernel keeps for this control group; -1 where it does not. `name`: of the line, if there are several.
function kept(file, name,    line, field, found) {
    found = -1
    while ((getline line <file) > 0) {
        split(line, field, " ")
        if (name == "") found = field[1]
        else if (field[1] == name) found = field[2]
    }
    close(file)
    return found
}

# Numbers of the processes that units left behind: those in the group that are not known from before the first one, nor
# descend from such a one.
function left(    pid, above, line, field, found) {
    while ((getline pid <procs_file) > 0) {
        for (above = pid; above > 1 && !(above in known); above = field[2]) {
            field[2] = 0
            if ((getline line <("/proc/" above "/stat")) > 0) {
                sub(/.*\) /, "", line)
                split(line, field, " ")
            }
            close("/proc/" above "/stat")
        }
        if (!(above in known)) found = found " " pid
    }
    close(procs_file)
    return found
}

function find_group(    line) {
    peak_file = oom_file = procs_file = "/dev/null"
    while ((getline line <"/proc/self/cgroup") > 0) {
        if (line ~ /^[0-9]+:freezer:.*\/job_/) {
            sub(/^[0-9]+:freezer:/, "/sys/fs/cgroup/freezer", line)
            procs_file = line "/cgroup.procs"
        } else if (line ~ /^[0-9]+:memory:.*\/job_/) {
            sub(/^[0-9]+:memory:/, "/sys/fs/cgroup/memory", line)
            peak_file = line "/memory.max_usage_in_bytes"
            oom_file = line "/memory.oom_control"
        } else if (line ~ /^0::.*\/job_/) {
            sub(/^0::/, "/sys/fs/cgroup", line)
            peak_file = line "/memory.peak"
            oom_file = line "/memory.events"
            procs_file = line "/cgroup.procs"
        }
    }
    close("/proc/self/cgroup")
    while ((getline line <procs_file) > 0) known[line]
    close(procs_file)
}

# What system() returned: exit code, and 0 or the signal. Implementations differ: 256 + signal, or the wait status / 256.
function code_and_signal(status) {
    if (status != int(status)) return "0 " int(status * 256 + 0.5) % 128
    if (status >= 256) return "0 " status % 128
    return status " 0"
}

BEGIN {
    if (!ARGV[5] && code_and_signal(system("kill -s KILL $$")) != "0 9") {
        print "The awk of this node does not tell signals (BusyBox?): mawk, gawk or original-awk is needed" >"/dev/stderr"
        exit 1
    }
    program = ARGV[1]
    while (line_number < ARGV[4] && (getline label <ARGV[2]) > 0)
        if (++line_number >= ARGV[3]) labels[++count] = label
    close(ARGV[2])
    find_group()
    print "booted", ARGV[7], kept("/proc/stat", "btime") >>ARGV[6]
    close(ARGV[6])
    for (i = 1; i <= count; i++) {
        cpu = used(); peak = kept(peak_file, ""); kills = kept(oom_file, "oom_kill")
        status = system("fb_before='" labels[i - 1] "' fb_ended='" ended "' fb_label='" labels[i] "' fb_left='" (i > 1 ? left() : "") "'\n" program)
        more = kept(peak_file, "")
        ended = code_and_signal(status) " " used() - cpu " " (more > peak ? more : -1) " " (kills < 0 ? -1 : kept(oom_file, "oom_kill") - kills)
        failed = failed || status
    }
    print "fb_ended", labels[count], ended
    exit failed ? 1 : 0
}
