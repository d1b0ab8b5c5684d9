-- Ends a lease, and corrects what the call took to what it used; a refused call gives back the request too.
--
-- KEYS: window, tokens, leases
-- ARGV: call id, 1 if it was refused, tokens used
local call = ARGV[1]
redis.call('ZREM', KEYS[3], call)
local taken = redis.call('HGET', KEYS[2], call)
if not taken then
    return  -- It has left the window.
end
if ARGV[2] == '1' then
    redis.call('ZREM', KEYS[1], call)
    redis.call('HDEL', KEYS[2], call)
    redis.call('HINCRBY', KEYS[2], 'total', -taken)
else
    redis.call('HSET', KEYS[2], call, ARGV[3])
    redis.call('HINCRBY', KEYS[2], 'total', ARGV[3] - taken)
end
